// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// replicaKey is a replica of a service.
type replicaKey struct {
	service model.ServiceName
	addr    netip.AddrPort
}

// session is one routed connection.
type session struct {
	to    *route
	at    netip.AddrPort
	key   string // of a Postgres CancelRequest; empty: not seen
	abort func() // ends it, where no pump does

	client netip.AddrPort
	since  time.Time

	flow   atomic.Pointer[conn.Flow]
	wanted atomic.Bool // to be cut
}

// cut ends the session; it may be called at any time and more than once.
func (s *session) cut() {
	s.wanted.Store(true)
	if s.abort != nil {
		s.abort()
	} else if f := s.flow.Load(); f != nil {
		f.Cut()
	}
}

// pumped says which flow carries the session.
func (s *session) pumped(f *conn.Flow) {
	s.flow.Store(f)
	if s.wanted.Load() {
		f.Cut()
	}
}

// flows knows the routed connections by replica.
type flows struct {
	mu       sync.Mutex
	replicas map[replicaKey]*replica
	total    int
	closing  bool                // what comes now is cut at once
	empty    chan struct{}       // closed when total is 0 and somebody waits
	cancels  map[string]*session // by Postgres cancel key
}

type replica struct {
	sessions map[*session]struct{}
	drain    time.Duration
	leave    *time.Timer // runs since the replica left the state; nil: it is there
}

func newFlows() *flows {
	return &flows{replicas: map[replicaKey]*replica{}, cancels: map[string]*session{}}
}

// at counts the connections at a replica.
func (f *flows) at(k replicaKey) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.replicas[k]; r != nil {
		return len(r.sessions)
	}
	return 0
}

func (f *flows) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

// add registers a session; leave is to be called once at its end.
func (f *flows) add(s *session) (leave func(sent, received int64)) {
	s.to.stats.connections.Add(1)
	s.to.stats.active.Add(1)
	k := replicaKey{s.to.service, s.at}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closing {
		defer s.cut()
	}
	r := f.replicas[k]
	if r == nil {
		r = &replica{sessions: map[*session]struct{}{}}
		f.replicas[k] = r
	}
	r.drain = s.to.drain
	r.sessions[s] = struct{}{}
	f.total++
	return func(sent, received int64) {
		s.to.stats.active.Add(-1)
		s.to.stats.in.Add(sent)
		s.to.stats.out.Add(received)
		f.remove(k, s)
	}
}

func (f *flows) remove(k replicaKey, s *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.replicas[k]
	delete(r.sessions, s)
	if f.cancels[s.key] == s {
		delete(f.cancels, s.key)
	}
	if len(r.sessions) == 0 {
		if r.leave != nil {
			r.leave.Stop()
		}
		delete(f.replicas, k)
	}
	if f.total--; f.total == 0 && f.empty != nil {
		close(f.empty)
		f.empty = nil
	}
}

// cancelable notes by which key a CancelRequest means the session.
func (f *flows) cancelable(s *session, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.key = key
	f.cancels[key] = s
}

// canceled finds the session that a CancelRequest means.
func (f *flows) canceled(key string) (*session, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.cancels[key]
	return s, ok
}

// settle begins the drain of replicas that have left the state, and ends that
// of those that are back. A drain that is over cuts what is left.
func (f *flows) settle(there map[replicaKey]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, r := range f.replicas {
		switch {
		case there[k] && r.leave != nil:
			r.leave.Stop()
			r.leave = nil
		case !there[k] && r.leave == nil:
			r.leave = time.AfterFunc(r.drain, func() { f.cutReplica(k, r) })
		}
	}
}

func (f *flows) cutReplica(k replicaKey, r *replica) {
	f.mu.Lock()
	var cut []func()
	if f.replicas[k] == r && r.leave != nil {
		for s := range r.sessions {
			cut = append(cut, s.cut)
		}
	}
	f.mu.Unlock()
	for _, c := range cut {
		c()
	}
}

// wait returns when no session is left, or with ctx's error.
func (f *flows) wait(ctx context.Context) error {
	f.mu.Lock()
	if f.total == 0 {
		f.mu.Unlock()
		return nil
	}
	if f.empty == nil {
		f.empty = make(chan struct{})
	}
	empty := f.empty
	f.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cutAll ends every session, those still to come included.
func (f *flows) cutAll() {
	f.mu.Lock()
	f.closing = true
	var cut []func()
	for _, r := range f.replicas {
		for s := range r.sessions {
			cut = append(cut, s.cut)
		}
	}
	f.mu.Unlock()
	for _, c := range cut {
		c()
	}
}

// nameStats counts the connections of one name.
type nameStats struct {
	connections, active, in, out atomic.Int64
}
