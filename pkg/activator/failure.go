// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"cmp"
	"fmt"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// holdMost is how long somebody is held for a replica that has ended and waits
// to be started again. What takes longer is told at once (row W03): a service
// that crashes again and again makes nobody wait.
const holdMost = time.Second

// NotNow says why a service cannot be had at this moment, and when it is tried
// again.
type NotNow struct {
	Why  error
	Next time.Time     // no start before it
	wait time.Duration // until then, when this was said
}

func (e *NotNow) Error() string {
	return fmt.Sprintf("%v; the next try is at %s UTC", e.Why, e.Next.UTC().Format(time.TimeOnly))
}

// Unwrap is why.
func (e *NotNow) Unwrap() error { return e.Why }

// RetryAfter is how long to wait before asking again.
func (e *NotNow) RetryAfter() time.Duration { return max(e.wait, 0) }

// downtime is why no replica of a service runs, and when one is started again.
type downtime struct {
	why  string
	next time.Time
}

// lasts tells whether it is too long to be held for.
func (d *downtime) lasts(now time.Time) bool { return d != nil && d.next.Sub(now) > holdMost }

// notNow is what is told to those who ask now; nil: they may wait.
func (x *sleeper) notNow(now time.Time) error {
	switch {
	case x.stage == asleep && now.Before(x.barred):
		return &NotNow{x.failure, x.barred, x.barred.Sub(now)}
	case len(x.ready) == 0 && x.down.lasts(now):
		return &NotNow{fmt.Errorf("it does not stay up: %s", x.down.why), x.down.next, x.down.next.Sub(now)}
	}
	return nil
}

// downOf tells, by service, of those whose replicas have all ended: the one
// that is started again first.
func downOf(replicas []Replica) map[model.ServiceName]*downtime {
	down, up := map[model.ServiceName]*downtime{}, map[model.ServiceName]bool{}
	for _, r := range replicas {
		switch r.Phase {
		case Starting, Ready:
			up[r.Service] = true
		case Backoff:
			if d := down[r.Service]; d == nil || r.Next.Before(d.next) {
				down[r.Service] = &downtime{why: cmp.Or(r.Reason, "it ended"), next: r.Next}
			}
		}
	}
	for name := range up {
		delete(down, name)
	}
	return down
}

// failedStart is why a start is given up after so many ends of replicas.
func failedStart(falls int, r Replica) error {
	if r.Hopeless || falls == 1 {
		return fmt.Errorf("it cannot be started: %s", r.Reason)
	}
	return fmt.Errorf("it ended %d times before it was ready: %s", falls, r.Reason)
}

// Why says, in words, why a service has no replica, and after how long to ask
// again; empty: nothing is known of it. It starts nothing.
func (a *Activator) Why(name model.ServiceName) (reason string, retry time.Duration) {
	now := a.cfg.Now()
	a.sleep.mu.Lock()
	_, stopped := a.sleep.stopped[name]
	var failed error
	if x := a.sleep.by[name]; x != nil {
		failed = x.notNow(now)
	}
	a.sleep.mu.Unlock()
	if stopped {
		return "it is stopped by its owner (fairlead stop), until \"fairlead start\"", 0
	}
	if n, ok := failed.(*NotNow); ok {
		return n.Error(), n.RetryAfter()
	}
	for _, r := range a.Replicas() {
		if r.Service != name {
			continue
		}
		switch r.Phase {
		case Backoff:
			return (&NotNow{fmt.Errorf("replica %s ended: %s", r.ID, r.Reason), r.Next, 0}).Error(), max(r.Next.Sub(now), time.Second)
		case Starting:
			return fmt.Sprintf("replica %s is starting: %s", r.ID, r.Reason), time.Second
		}
	}
	return "", 0
}
