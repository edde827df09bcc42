// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// ErrInUse is returned for a service that is not put to sleep because it has
// connections.
var ErrInUse = errors.New("it is in use")

// Sleep puts a service to sleep now, unless it has connections.
func (a *Activator) Sleep(name model.ServiceName) error {
	s := &a.sleep
	s.mu.Lock()
	x := s.by[name]
	s.mu.Unlock()
	if x == nil {
		return ErrNoSleeper
	}
	open, err := a.connections(x)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case x.stage == asleep || x.stage == dozing:
		return nil
	case open > 0 || x.waiting > 0:
		return fmt.Errorf("%w: %d connections are open, %d wait for it", ErrInUse, open, x.waiting)
	case x.stage == waking || len(x.ready) == 0:
		return errors.New("it is starting; wait until it is ready, or stop it")
	}
	x.doze(a.cfg.Now())
	s.poke()
	a.source.notify()
	return nil
}

// Stop ends all replicas of a workload until Start, whatever its scale: nobody
// wakes it (row A30). Their connections end within the service's drain time.
func (a *Activator) Stop(ctx context.Context, name model.ServiceName) error {
	return a.halt(ctx, name, true)
}

// Start takes a Stop back. A service that may sleep goes on sleeping.
func (a *Activator) Start(ctx context.Context, name model.ServiceName) error {
	return a.halt(ctx, name, false)
}

func (a *Activator) halt(ctx context.Context, name model.ServiceName, stop bool) error {
	a.applying.Lock()
	last := a.last
	a.applying.Unlock()
	if last == nil {
		return errors.New("the agent is starting: try again")
	}
	svc, ok := last.Service(name)
	if !ok || svc.Workload == nil {
		return fmt.Errorf("service %s has no workload that fairlead runs", name)
	}
	s := &a.sleep
	s.mu.Lock()
	now := a.cfg.Now()
	_, was := s.stopped[name]
	if stop && !was {
		s.stopped[name] = now
	} else if !stop {
		delete(s.stopped, name)
	}
	if x := s.by[name]; x != nil && stop != was {
		x.barred = time.Time{}
		s.enter(x, asleep, map[bool]string{true: "it was stopped", false: "it was started again, and nobody has used it"}[stop], now)
	}
	s.mu.Unlock()
	a.keepNow()
	a.source.notify()
	a.rescale(ctx, svc.Workload.Driver, name, wantedOf(svc))
	return nil
}

// Nap is what is known of the sleep of a service.
type Nap struct {
	Service model.ServiceName
	Stage   string // "asleep" | "waking" | "awake" | "dozing" | "stopped"
	Since   time.Time
	Cause   string
	Waiting int       // connections and requests that wait for it
	Until   time.Time // when it falls asleep if nobody uses it; zero: not awake, or in use
	Note    string    // why it does not fall asleep
	Failed  bool      // it sleeps because its last start failed; Cause says why
}

// Naps tells of every service that may sleep, or is stopped.
func (a *Activator) Naps() map[model.ServiceName]Nap {
	s := &a.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[model.ServiceName]Nap{}
	for name, x := range s.by {
		n := Nap{Failed: x.stage == asleep && x.failure != nil, Service: name, Stage: string(x.stage), Since: x.since, Cause: x.cause, Waiting: x.waiting, Note: x.note}
		if x.stage == awake && x.scale.Idle > 0 {
			n.Until = x.busy.Add(x.scale.Idle)
		}
		out[name] = n
	}
	for name, since := range s.stopped {
		out[name] = Nap{Service: name, Stage: "stopped", Since: since, Cause: "by fairlead stop"}
	}
	return out
}
