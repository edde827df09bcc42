// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Why a service is not woken.
var (
	ErrStopped   = errors.New("the service is stopped")
	ErrQueueFull = errors.New("too many connections wait for the service to start already (workload.scale.queue)")
	ErrTimeout   = errors.New("the service was not ready in time (workload.scale.startTimeout)")
	ErrNoSleeper = errors.New("the service is not one that sleeps")
)

// outcome is a cell of the count of wakes: of starts, not of connections.
type outcome struct {
	service       model.ServiceName
	cause, result string
}

// reason says what a replica of the service waits for.
func (a *Activator) reason(name model.ServiceName) string {
	for _, r := range a.Replicas() {
		if r.Service == name && r.Reason != "" && r.Phase != Stopping { // why it is stopped is another story
			return r.Reason
		}
	}
	return "nothing is known of why"
}

// heralded lets those go on who wait for a replica that is ready now. All the
// rest that follows from it comes with observe.
func (a *Activator) heralded(r Replica) (awaited bool) {
	s := &a.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	x, b := s.by[r.Service], backendOf(r, model.Ready)
	if x == nil || x.stage == asleep || x.asking || len(x.ready) > 0 || len(b.Addrs()) == 0 {
		return false
	}
	x.ready, x.heralded = []model.Backend{b}, r.ID
	if x.stage == waking {
		s.woke(x, r.Started, a.cfg.Now())
		s.news = true
	}
	x.signal()
	return x.waiting > 0
}

// woke notes a good end of a start, by a process that began at a time.
func (s *sleepers) woke(x *sleeper, started, now time.Time) {
	s.stats[outcome{x.name, x.kind, "ready"}]++
	s.timed(x, started, now)
	x.pause, x.failure = 0, nil
	x.stage, x.since, x.busy = awake, now, now
	x.lookNext(now)
}

// observe takes note of the replicas there are, and returns them. A list made
// before a service was put to sleep must not count for its next wake: its replica
// may be on its way out by now.
func (a *Activator) observe() []Replica {
	s := &a.sleep
	s.mu.Lock()
	for {
		turn := s.turn
		s.mu.Unlock()
		replicas := a.Replicas()
		s.mu.Lock()
		if s.turn == turn {
			a.observeLocked(replicas)
			return replicas
		}
	}
}

// observeLocked is called with the lock and gives it back.
func (a *Activator) observeLocked(replicas []Replica) {
	s := &a.sleep
	now := a.cfg.Now()
	ready, unlisted := map[model.ServiceName][]model.Backend{}, map[model.ServiceName]bool{}
	var ended []Replica
	for _, r := range replicas {
		switch x := s.by[r.Service]; {
		case x == nil:
		case r.Phase == Starting && x.heralded == r.ID:
			unlisted[r.Service] = true
			ready[r.Service] = append(ready[r.Service], backendOf(r, model.Ready))
		case r.Phase == Ready:
			ready[r.Service] = append(ready[r.Service], backendOf(r, model.Ready))
		case r.Phase == Backoff:
			ended = append(ended, r)
		}
	}
	changed, down, queued := s.news, downOf(replicas), queuedOf(replicas)
	s.news = false
	for name, x := range s.by {
		if x.stage == waking && x.queue(queued[name], now) {
			s.poke()
		}
		if x.down = down[name]; x.down.lasts(now) {
			x.signal()
		}
		if !unlisted[name] {
			x.heralded = ""
		}
		if x.ready = ready[name]; x.stage == asleep || x.asking {
			x.ready = nil // it is, or may be, about to be stopped
		}
		if len(x.ready) > 0 && x.stage == waking {
			s.woke(x, startedOf(replicas, name), now)
			changed = true
		}
		if len(x.ready) > 0 && x.waiting > 0 {
			x.signal()
		}
	}
	for _, r := range ended {
		x := s.by[r.Service]
		if x.stage != waking || x.restarts[r.ID] == r.Restarts {
			continue
		}
		x.restarts[r.ID] = r.Restarts
		if x.falls++; x.falls >= maxFalls || r.Hopeless || x.down.lasts(now) {
			s.stats[outcome{x.name, x.kind, "failed"}]++
			s.fell(x, failedStart(x.falls, r), now)
			changed = true
			defer a.rescale(context.Background(), x.driver, x.name, 1)
		}
	}
	s.mu.Unlock()
	if changed {
		a.keep()
		s.poke()
	}
}

// queuedOf tells of which services all replicas wait for their turn to start.
func queuedOf(replicas []Replica) map[model.ServiceName]bool {
	queued := map[model.ServiceName]bool{}
	for _, r := range replicas {
		if r.Phase == Stopping {
			continue
		}
		before, ok := queued[r.Service]
		queued[r.Service] = r.Queued && (before || !ok)
	}
	return queued
}

// queue notes whether a start waits for its turn. When it has it, it has all of
// its time: true.
func (x *sleeper) queue(waits bool, now time.Time) (begins bool) {
	begins = x.queued && !waits
	x.queued = waits
	if begins {
		x.begun, x.deadline = now, now.Add(x.scale.StartTimeout)
		x.signal()
	}
	return begins
}

// rescale tells a Runner how many replicas of one service shall run: want, or
// none while it sleeps. What is known when its turn comes counts, not when it was
// called: of a wake and a sleep at one moment the later one wins.
func (a *Activator) rescale(ctx context.Context, driver string, name model.ServiceName, want int) {
	a.applying.Lock()
	defer a.applying.Unlock()
	n, idle := a.sleep.replicas(name, want)
	for _, r := range a.cfg.Runners {
		if r.Driver() != driver {
			continue
		}
		if sc, ok := r.(Scaler); ok && sc.Scale(name, n, idle) {
			return
		}
	}
	if a.last == nil {
		return // the first Apply will say it
	}
	if err := a.applyLocked(context.WithoutCancel(ctx), a.last); err != nil {
		a.cfg.Log.Error("scale workload", "service", name.String(), "replicas", n, "error", err)
	}
}
