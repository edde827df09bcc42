// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"context"
	"errors"
	"fmt"
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

// Wake has a sleeping service started, once however many ask, and returns its
// replicas as soon as one is ready; at once if one is. cause is of "connection",
// "request", "operator"; who says more of it to a person. What waits longer than the service's
// startTimeout gets ErrTimeout, or why the start failed.
func (a *Activator) Wake(ctx context.Context, name model.ServiceName, cause, who string) ([]model.Backend, error) {
	s := &a.sleep
	s.mu.Lock()
	if _, ok := s.stopped[name]; ok {
		s.mu.Unlock()
		return nil, ErrStopped
	}
	x := s.by[name]
	if x == nil {
		s.mu.Unlock()
		return nil, ErrNoSleeper
	}
	now := a.cfg.Now()
	if len(x.ready) > 0 {
		x.busy = now
		if x.stage == dozing { // its replicas are there still
			s.enter(x, awake, who, now)
			defer a.source.notify()
		}
		ready := x.ready
		s.mu.Unlock()
		return ready, nil
	}
	if err := x.notNow(now); err != nil {
		s.stats[outcome{name, cause, "refused"}]++
		s.mu.Unlock()
		return nil, err
	}
	if x.waiting >= max(x.scale.Queue, 1) {
		s.stats[outcome{name, cause, "queue_full"}]++
		s.mu.Unlock()
		return nil, ErrQueueFull
	}
	x.waiting++
	begun := x.stage == asleep
	if begun {
		s.enter(x, waking, who, now)
		x.deadline, x.falls, x.restarts, x.failure = now.Add(x.scale.StartTimeout), 0, map[string]int{}, nil
		x.kind = cause
	}
	driver := x.driver
	s.mu.Unlock()
	if begun {
		a.rescale(ctx, driver, name, 1)
		a.keep()
		s.poke()
	}
	return a.await(ctx, x)
}

// await waits for a ready replica. The caller is counted in x.waiting.
func (a *Activator) await(ctx context.Context, x *sleeper) ([]model.Backend, error) {
	s := &a.sleep
	s.mu.Lock()
	defer func() {
		x.waiting--
		s.mu.Unlock()
	}()
	timer := time.NewTimer(x.scale.StartTimeout)
	defer timer.Stop()
	for {
		switch {
		case len(x.ready) > 0:
			x.busy = a.cfg.Now()
			return x.ready, nil
		case x.stage == asleep && x.failure != nil:
			return nil, &NotNow{x.failure, x.barred, x.barred.Sub(a.cfg.Now())}
		case x.down.lasts(a.cfg.Now()):
			return nil, x.notNow(a.cfg.Now())
		case s.by[x.name] != x:
			return nil, ErrNoSleeper
		}
		if _, ok := s.stopped[x.name]; ok {
			return nil, ErrStopped
		}
		changed := x.changed
		s.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-timer.C:
			err = fmt.Errorf("%w: %s", ErrTimeout, a.reason(x.name))
		case <-ctx.Done():
			err = ctx.Err()
		}
		s.mu.Lock()
		if err != nil {
			return nil, err
		}
	}
}

// reason says what a replica of the service waits for.
func (a *Activator) reason(name model.ServiceName) string {
	for _, r := range a.Replicas() {
		if r.Service == name && r.Reason != "" {
			return r.Reason
		}
	}
	return "nothing is known of why"
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
	ready := map[model.ServiceName][]model.Backend{}
	var ended []Replica
	for _, r := range replicas {
		switch {
		case s.by[r.Service] == nil:
		case r.Phase == Ready:
			ready[r.Service] = append(ready[r.Service], backendOf(r, model.Ready))
		case r.Phase == Backoff:
			ended = append(ended, r)
		}
	}
	changed, down := false, downOf(replicas)
	for name, x := range s.by {
		if x.down = down[name]; x.down.lasts(now) {
			x.signal()
		}
		if x.ready = ready[name]; x.stage == asleep {
			x.ready = nil // it is about to be stopped
		}
		if len(x.ready) > 0 && x.stage == waking {
			s.stats[outcome{name, x.kind, "ready"}]++
			s.timed(x, startedOf(replicas, name), now)
			x.pause, x.failure = 0, nil
			x.stage, x.since, x.busy, x.look = awake, now, now, time.Time{}
			changed = true
		}
		if len(x.ready) > 0 {
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

// rescale tells a Runner how many replicas of one service shall run: want, or
// none while it sleeps. What is known when its turn comes counts, not when it was
// called: of a wake and a sleep at one moment the later one wins.
func (a *Activator) rescale(ctx context.Context, driver string, name model.ServiceName, want int) {
	a.applying.Lock()
	defer a.applying.Unlock()
	n := a.sleep.replicas(name, want)
	for _, r := range a.cfg.Runners {
		if r.Driver() != driver {
			continue
		}
		if sc, ok := r.(Scaler); ok && sc.Scale(name, n) {
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
