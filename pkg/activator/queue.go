// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Place is the place of a connection or a request among those that wait for a
// service, and keeps it from falling asleep. Whoever has one leaves it.
type Place struct {
	a *Activator
	x *sleeper
}

// Enter takes a place, and has the service started if it sleeps: once, however
// many come. cause is one of "connection", "request", "datagram", "operator";
// who says more of it to a person. Without a place it says why: the service is
// stopped, its last start has just failed, or too many wait already.
func (a *Activator) Enter(name model.ServiceName, cause, who string) (*Place, error) {
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
	begun, notNow := false, x.notNow(now)
	switch {
	case len(x.ready) > 0:
		x.busy = now
		if x.stage == dozing { // its replicas are there still
			s.enter(x, awake, who, now)
			defer a.source.notify()
		}
	case notNow != nil:
		s.stats[outcome{name, cause, "refused"}]++
		s.mu.Unlock()
		return nil, notNow
	case x.waiting >= max(x.scale.Queue, 1):
		s.stats[outcome{name, cause, "queue_full"}]++
		s.mu.Unlock()
		return nil, ErrQueueFull
	case x.stage == asleep:
		begun = true
		s.enter(x, waking, who, now)
		x.deadline, x.falls, x.restarts, x.failure = now.Add(x.scale.StartTimeout), 0, map[string]int{}, nil
		x.kind, x.asking, x.queued, x.begun = cause, true, false, time.Time{}
	}
	x.waiting++
	if z := s.sizes[name]; z != nil && x.waiting == z.want*z.scale.Target+1 && z.want < z.scale.Max {
		z.look = time.Time{} // they are too many for the replicas that start
		s.poke()
	}
	driver := x.driver
	s.mu.Unlock()
	if begun {
		a.rescale(context.Background(), driver, name, 1)
		s.asked(x)
		a.source.notify()
		a.keep()
		s.poke()
	}
	return &Place{a: a, x: x}, nil
}

// asked notes that the Runner knows what is wanted of a service that wakes. Until
// then a replica may be ready that the Runner is about to stop, as it was told
// when the service fell asleep; none that is in a list made before counts.
func (s *sleepers) asked(x *sleeper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.asking = false
	s.turn++
}

// Wait returns the service's replicas as soon as one is ready. What waits longer
// than the service's startTimeout gets ErrTimeout, or why the start failed. The
// time in which the start waits for its turn does not count.
func (p *Place) Wait(ctx context.Context) ([]model.Backend, error) {
	a, x, s := p.a, p.x, &p.a.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	timer := time.NewTimer(x.scale.StartTimeout)
	defer timer.Stop()
	begun := x.begun
	for {
		if x.begun != begun {
			begun = x.begun
			timer.Reset(x.scale.StartTimeout)
		}
		notNow := x.notNow(a.cfg.Now())
		switch {
		case len(x.ready) > 0:
			x.busy = a.cfg.Now()
			return x.ready, nil
		case notNow != nil:
			return nil, notNow
		case x.stage == asleep && x.failure != nil:
			return nil, &NotNow{x.failure, x.barred, x.barred.Sub(a.cfg.Now())}
		case s.by[x.name] != x:
			return nil, ErrNoSleeper
		}
		if _, ok := s.stopped[x.name]; ok {
			return nil, ErrStopped
		}
		changed := x.change()
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
		if errors.Is(err, ErrTimeout) && x.queued {
			timer.Reset(x.scale.StartTimeout)
			err = nil
		}
		if err != nil {
			return nil, cmp.Or(x.notNow(a.cfg.Now()), err) // who gave the start up at this moment knows better
		}
	}
}

// Leave gives the place up. It is called once.
func (p *Place) Leave() {
	p.a.sleep.mu.Lock()
	defer p.a.sleep.mu.Unlock()
	p.x.waiting--
}

// Wake is Enter, Wait and Leave.
func (a *Activator) Wake(ctx context.Context, name model.ServiceName, cause, who string) ([]model.Backend, error) {
	p, err := a.Enter(name, cause, who)
	if err != nil {
		return nil, err
	}
	defer p.Leave()
	return p.Wait(ctx)
}
