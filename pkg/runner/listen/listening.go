// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of looking into replicas: what was seen is said again for a while,
// and a look that takes longer is no answer.
const (
	lookAgain = time.Second
	lookLimit = time.Second
	mostLooks = 4 // at once
)

// Looks remembers what was seen in replicas' namespaces. The zero Looks is
// ready for use.
type Looks struct {
	mu   sync.Mutex
	seen map[string]*sight // by replica; those that are not stale, and some that are
	busy int
}

// sight is one look. have and err are set when done is closed.
type sight struct {
	at   time.Time
	done chan struct{}
	have []listener
	err  error
}

// stale tells whether to look again; not while somebody still does.
func (s *sight) stale(now time.Time) bool {
	select {
	case <-s.done:
		return now.Sub(s.at) >= lookAgain
	default:
		return false
	}
}

// Instead says in words why nothing answers TCP at an address of a replica
// whose process and pinned network namespace are given: what listens there
// instead. Empty: something answers, or there was no time to look. It looks at a
// replica once a second at most and takes a second at most; an error is told of
// each time. Safe for concurrent use.
func (l *Looks) Instead(id string, pid int, netns string, to netip.AddrPort) (string, error) {
	s := l.begin(id, func() ([]listener, error) { return listeners(pid, netns, lookLimit) })
	if s == nil {
		return "", nil
	}
	timer := time.NewTimer(lookLimit)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
		return "", nil
	}
	if s.err != nil {
		return "", s.err
	}
	return instead(s.have, to), nil
}

// begin looks, unless somebody has done so just now or does; nil: too many do.
func (l *Looks) begin(id string, look func() ([]listener, error)) *sight {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if s := l.seen[id]; s != nil && !s.stale(now) {
		return s
	}
	if l.busy == mostLooks {
		return nil
	}
	if l.seen == nil {
		l.seen = map[string]*sight{}
	}
	for other, s := range l.seen {
		if s.stale(now) {
			delete(l.seen, other)
		}
	}
	s := &sight{at: now, done: make(chan struct{})}
	l.seen[id] = s
	l.busy++
	go func() {
		s.have, s.err = look()
		close(s.done)
		l.mu.Lock()
		l.busy--
		l.mu.Unlock()
	}()
	return s
}

// instead compares what listens with what is wanted; empty: it is there.
func instead(have []listener, want netip.AddrPort) string {
	var local, foreign, others []listener
	for _, l := range have {
		switch {
		case l.local.Port() != want.Port():
			others = append(others, l)
		case l.local.Addr().IsLoopback():
			local = append(local, l)
		case l.takes(want.Addr()):
			return ""
		default:
			foreign = append(foreign, l)
		}
	}
	switch {
	case len(local) > 0:
		return fmt.Sprintf("the workload listens on %s only, which nobody outside of it can reach: let it use 0.0.0.0 or [::]", named(local))
	case len(foreign) > 0:
		return fmt.Sprintf("the workload listens on %s only, which does not take connections to %s: let it use 0.0.0.0 or [::]", named(foreign), want.Addr())
	case len(others) > 0:
		return fmt.Sprintf("the workload listens on %s, the service expects %d: run.containerPort, or the program's port, is wrong", named(others), want.Port())
	}
	return fmt.Sprintf("the workload listens on no TCP port, the service expects %d", want.Port())
}

// named lists at most four of them, by port.
func named(all []listener) string {
	slices.SortFunc(all, func(a, b listener) int {
		return cmp.Or(cmp.Compare(a.local.Port(), b.local.Port()), a.local.Addr().Compare(b.local.Addr()))
	})
	var out []string
	for _, l := range slices.Compact(all) { // several sockets may share a port
		if len(out) == 4 {
			out = append(out, "…")
			break
		}
		out = append(out, l.String())
	}
	return strings.Join(out, ", ")
}
