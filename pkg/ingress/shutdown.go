// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"sync"
	"time"
)

// Shutdown stops accepting, lets requests end and then connections, and returns
// when none is left or ctx ends; those that are left then are closed, WebSockets
// with a close frame (row L08). An idle connection is closed when half of the
// time is over, and after Limits.Patience at the latest: until then its next
// request is answered, with Connection: close.
func (t *Target) Shutdown(ctx context.Context) error { return t.drain(ctx, t.cfg.Limits.Patience) }

// Drain is Shutdown for a front whose successor has its listeners: there is time,
// and an idle connection has what it has at any other time, Limits.Idle.
func (t *Target) Drain(ctx context.Context) error { return t.drain(ctx, t.cfg.Limits.Idle) }

func (t *Target) drain(ctx context.Context, idle time.Duration) error {
	t.mu.Lock()
	t.draining.Store(true)
	listeners := t.listeners
	t.listeners = map[bool]*listener{}
	t.mu.Unlock()
	for _, l := range listeners {
		l.stop()
	}
	begun := time.Now()
	patience := begun.Add(idle)
	if end, ok := ctx.Deadline(); ok {
		if half := begun.Add(time.Until(end) / 2); half.Before(patience) {
			patience = half
		}
	}
	told, cancel := context.WithCancel(ctx)
	defer cancel()
	// Those that have just come may turn out to speak HTTP/2: no new ones are
	// served once its clients are told to go.
	tell := sync.OnceFunc(func() { t.wg.Go(func() { _ = t.h2.Shutdown(told) }) })
	for {
		now := time.Now()
		busy, fresh := t.remaining(now.After(patience))
		if fresh == 0 || now.Sub(begun) > t.cfg.Limits.Head {
			tell()
		}
		if busy == 0 {
			cancel()
			t.Close()
			return nil
		}
		select {
		case <-ctx.Done():
			cancel()
			t.Close()
			return ctx.Err()
		case <-time.After(min(max(now.Sub(begun)/20, 5*time.Millisecond), 500*time.Millisecond)):
		}
	}
}

// Open counts the connections of clients.
func (t *Target) Open() int {
	t.smu.Lock()
	defer t.smu.Unlock()
	return len(t.sessions)
}

// remaining counts the sessions, and those that have not said which protocol
// they speak, and closes the idle ones if asked to.
func (t *Target) remaining(closeIdle bool) (all, fresh int) {
	t.smu.Lock()
	defer t.smu.Unlock()
	for s := range t.sessions {
		if closeIdle && s.mode.Load() == modeIdle {
			s.sock.interrupt()
		}
		if s.fresh.Load() {
			fresh++
		}
	}
	return len(t.sessions), fresh
}

// Close ends everything at once and waits for it.
func (t *Target) Close() {
	t.mu.Lock()
	t.draining.Store(true)
	listeners, endpoints := t.listeners, t.endpoints
	t.listeners, t.endpoints = map[bool]*listener{}, map[endpointKey]*endpoint{}
	t.mu.Unlock()
	t.smu.Lock()
	t.closed = true
	for s := range t.sessions {
		if tun := s.tunnel.Load(); tun != nil {
			tun.goAway()
			tun.up.interrupt()
		}
		if u := s.up.Load(); u != nil {
			u.interrupt()
		}
		s.sock.interrupt()
		_ = s.sock.tcp.CloseRead()
	}
	t.smu.Unlock()
	for _, l := range listeners {
		l.stop()
	}
	_ = t.h2.Close()
	_ = t.handed.Close()
	t.cancel()
	t.wg.Wait()
	for _, e := range endpoints {
		e.prune(0, true)
	}
}
