// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"time"
)

// Shutdown stops accepting, lets requests end and then connections, and returns
// when none is left or ctx ends; those that are left then are closed, WebSockets
// with a close frame (row L08). An idle connection is closed when half of the
// time is over: until then its next request is answered, with Connection: close.
func (t *Target) Shutdown(ctx context.Context) error {
	t.mu.Lock()
	t.draining.Store(true)
	listeners := t.listeners
	t.listeners = map[bool]*listener{}
	t.mu.Unlock()
	for _, l := range listeners {
		l.stop()
	}
	patience := time.Now().Add(t.cfg.Limits.Patience)
	if end, ok := ctx.Deadline(); ok {
		if half := time.Now().Add(time.Until(end) / 2); half.Before(patience) {
			patience = half
		}
	}
	told, cancel := context.WithCancel(ctx)
	t.wg.Go(func() { _ = t.h2.Shutdown(told) }) // tells HTTP/2 clients to go; they are waited for below
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		busy := t.remaining(time.Now().After(patience))
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
		case <-poll.C:
		}
	}
}

// remaining counts the sessions, and closes the idle ones if asked to.
func (t *Target) remaining(closeIdle bool) int {
	t.smu.Lock()
	defer t.smu.Unlock()
	for s := range t.sessions {
		if closeIdle && s.mode.Load() == modeIdle {
			s.sock.interrupt()
		}
	}
	return len(t.sessions)
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
		_ = l.l.Close()
		<-l.done
	}
	_ = t.h2.Close()
	_ = t.handed.Close()
	t.cancel()
	t.wg.Wait()
	for _, e := range endpoints {
		e.prune(0, true)
	}
}
