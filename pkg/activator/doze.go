// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// watch puts services to sleep that nobody uses, ends starts that take too
// long, and has services get the replicas they need, until ctx ends. While everything sleeps it does nothing.
func (a *Activator) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.sleep.kick:
		case <-timer.C:
		}
		next := a.lookAround(ctx)
		if at := a.lookAtSizes(ctx); next.IsZero() || !at.IsZero() && at.Before(next) {
			next = at
		}
		if !next.IsZero() {
			timer.Reset(max(next.Sub(a.cfg.Now()), time.Millisecond))
		}
	}
}

// lookAround looks at those services whose time has come, and returns when the
// next one's will; the zero time: none is awake.
func (a *Activator) lookAround(ctx context.Context) (next time.Time) {
	s, now := &a.sleep, a.cfg.Now()
	s.mu.Lock()
	due := map[model.ServiceName]*sleeper{}
	for name, x := range s.by {
		if x.stage != asleep && x.driver != "" && !x.due().After(now) {
			due[name] = x
		}
	}
	s.mu.Unlock()
	if len(due) > 0 {
		opened := a.cfg.Opened(func(name model.ServiceName) bool { return due[name] != nil })
		for name, x := range due {
			a.lookAt(ctx, x, opened[name])
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.by {
		if at := x.due(); x.stage != asleep && x.driver != "" && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// due is when to look at it.
func (x *sleeper) due() time.Time {
	switch {
	case x.stage == waking:
		return x.deadline
	case x.stage == dozing && x.settled.IsZero():
		return x.since.Add(dozeTime)
	case x.stage == dozing:
		return x.settled.Add(settleTime)
	}
	return x.look
}

// lookNext says when to look at it again while it is awake.
func (x *sleeper) lookNext(now time.Time) {
	x.look = now.Add(min(max(x.scale.Idle/8, lookMin), lookMax))
	if x.scale.Idle/8 >= lookMax {
		x.look = x.look.Truncate(time.Second) // with others: a look at many costs little more
	}
	if left := x.busy.Add(x.scale.Idle); x.look.After(left) && left.After(now) {
		x.look = left
	}
}

// lookAt moves one service on, if there is a reason.
func (a *Activator) lookAt(ctx context.Context, x *sleeper, opened uint64) {
	s := &a.sleep
	open, meterErr := 0, error(nil)
	sockets, calm := a.isCalm(x)
	if !calm {
		open, meterErr = a.connections(x)
	}
	why := a.reason(x.name)
	s.mu.Lock()
	now := a.cfg.Now()
	before := x.stage
	switch {
	case s.by[x.name] != x || x.due().After(now): // changed meanwhile
	case x.stage == waking && x.queued:
		x.deadline = now.Add(x.scale.StartTimeout)
	case x.stage == waking:
		s.stats[outcome{x.name, x.kind, "timeout"}]++
		s.fell(x, fmt.Errorf("%w: %s", ErrTimeout, why), now)
	case x.stage == dozing:
		switch {
		case open > 0 || meterErr != nil || x.waiting > 0 || x.settled.IsZero():
			x.busy, x.opened = now, opened
			s.enter(x, awake, "a connection came as it was about to fall asleep", now)
		default:
			s.enter(x, asleep, fmt.Sprintf("nobody used it for %s", x.scale.Idle), now)
		}
	case x.stage == awake:
		x.note = ""
		if !calm {
			x.calm = 0
			if open == 0 && meterErr == nil {
				x.calm = sockets
			}
		}
		switch {
		case meterErr != nil:
			x.note = meterErr.Error()
			x.busy = now
		case open > 0 || opened != x.opened || x.waiting > 0:
			x.busy, x.opened = now, opened
		case now.Sub(x.busy) >= x.scale.Idle && len(x.ready) > 0:
			x.doze(now)
		case now.Sub(x.busy) >= x.scale.Idle && x.down != nil: // new connections are held, as there is no replica
			s.enter(x, asleep, fmt.Sprintf("nobody used it for %s, and it does not stay up: %s", x.scale.Idle, x.down.why), now)
		}
		x.lookNext(now)
	}
	after := x.stage
	s.mu.Unlock()
	if before != after {
		a.cfg.Log.Debug("sleep", "service", x.name.String(), "from", string(before), "to", string(after), "open", open)
		a.rescale(ctx, x.driver, x.name, 1)
		a.keep()
		a.source.notify()
	}
}

// isCalm tells whether the replicas have as many sockets as when nobody was
// connected: then connections need not be counted, which takes the kernel
// milliseconds. Two that came and went could hide behind it; so it is no reason to
// fall asleep.
func (a *Activator) isCalm(x *sleeper) (sockets int, calm bool) {
	for _, r := range a.cfg.Runners {
		if e, ok := r.(Estimator); ok && r.Driver() == x.driver {
			n, err := e.AtMost(x.name)
			if err != nil {
				return 0, false
			}
			sockets = n
		}
	}
	a.sleep.mu.Lock()
	defer a.sleep.mu.Unlock()
	calm = sockets > 0 && sockets == x.calm && x.stage == awake && a.cfg.Now().Sub(x.busy) < x.scale.Idle
	return sockets, calm
}

// Connections counts those open to the replicas of a service that may sleep,
// without those that a front keeps for its next request. Row W05: they are what
// keeps it awake.
func (a *Activator) Connections(name model.ServiceName) (int, error) {
	a.sleep.mu.Lock()
	x := a.sleep.by[name]
	a.sleep.mu.Unlock()
	if x == nil {
		return 0, ErrNoSleeper
	}
	return a.connections(x)
}

// connections counts those open to a service, without those that wait in a
// front for the next request. A front that has let go of the replica keeps none,
// so that of a service that dozes every one counts.
func (a *Activator) connections(x *sleeper) (int, error) {
	a.sleep.mu.Lock()
	ready := x.ready
	a.sleep.mu.Unlock()
	pooled := 0
	for _, b := range ready {
		for _, addr := range b.Addrs() {
			pooled += a.cfg.Pooled(addr)
		}
	}
	for _, r := range a.cfg.Runners {
		if m, ok := r.(Meter); ok && r.Driver() == x.driver {
			n, err := m.Connections(x.name)
			return max(0, n-pooled), err
		}
	}
	return 0, fmt.Errorf("it never falls asleep: driver %s cannot tell whether it is in use", x.driver)
}

// Applied is told of every state that the data plane has applied whole: from
// then on new connections to services asleep in it are held. It may be an older
// state than the one in which the service falls asleep this time, with another
// one to come in which it is awake: the number of the nap tells.
func (a *Activator) Applied(st *model.State) {
	s := &a.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, x := range s.by {
		if x.stage != dozing || !x.settled.IsZero() {
			continue
		}
		if svc, ok := st.Service(name); ok && svc.Sleep == model.Asleep && svc.Nap == x.nap {
			x.settled = a.cfg.Now()
			s.poke()
		}
	}
}
