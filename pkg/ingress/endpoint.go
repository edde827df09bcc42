// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// endpointKey is what makes connections to replicas interchangeable.
type endpointKey struct {
	addr netip.AddrPort
	tls  string // of the TLS settings; empty: cleartext
}

// endpoint is one port of one replica with its idle connections. It lives as
// long as some table names it; requests under way keep what they have.
type endpoint struct {
	key    endpointKey
	tls    *tls.Config // nil: cleartext
	clock  *clock
	dialer *net.Dialer

	inflight atomic.Int64
	fails    atomic.Int64 // connects in a row that failed
	avoid    atomic.Int64 // until this time others are preferred

	mu   sync.Mutex
	idle []*upstream // the one used last at the end
	gone bool
	// Of HTTP/2 clients; nil: none has come.
	plain *http.Transport
	grpc  *http.Transport
}

// upstream is a connection to a replica.
type upstream struct {
	sock
	ep     *endpoint
	reused bool
	since  int64 // when it became idle
}

const (
	// idleLimit is how long an unused connection is kept; mostIdle how many of
	// them an endpoint has.
	idleLimit = 30 * time.Second
	mostIdle  = 512
	// staleAfter is the idle time after which a connection is looked at before
	// it is used again.
	staleAfter = time.Second
	avoidMin   = 500 * time.Millisecond
	avoidMax   = 10 * time.Second
)

// take is an idle connection, or nil. careful looks at it in any case.
func (e *endpoint) take(careful bool) *upstream {
	for {
		e.mu.Lock()
		n := len(e.idle)
		if n == 0 {
			e.mu.Unlock()
			return nil
		}
		u := e.idle[n-1]
		e.idle[n-1] = nil
		e.idle = e.idle[:n-1]
		e.mu.Unlock()
		if (careful || e.clock.coarse.Load()-u.since > int64(staleAfter)) && !u.alive() {
			u.close()
			continue
		}
		u.reused = true
		return u
	}
}

// put keeps a connection for the next request.
func (e *endpoint) put(u *upstream) {
	u.since = e.clock.coarse.Load()
	e.mu.Lock()
	if e.gone || len(e.idle) >= mostIdle {
		e.mu.Unlock()
		u.close()
		return
	}
	e.idle = append(e.idle, u)
	e.mu.Unlock()
}

// prune closes what has been idle for too long; all: everything, for good.
func (e *endpoint) prune(now int64, all bool) {
	var old []*upstream
	e.mu.Lock()
	n := 0
	for n < len(e.idle) && (all || now-e.idle[n].since > int64(idleLimit)) {
		n++
	}
	old = append(old, e.idle[:n]...)
	e.idle = append(e.idle[:0], e.idle[n:]...)
	e.gone = e.gone || all
	plain, grpc := e.plain, e.grpc
	e.mu.Unlock()
	if all && plain != nil {
		plain.CloseIdleConnections()
	}
	if all && grpc != nil {
		grpc.CloseIdleConnections()
	}
	for _, u := range old {
		u.close()
	}
}

// dial opens a connection.
func (e *endpoint) dial(ctx context.Context) (*upstream, error) {
	c, err := e.dialer.DialContext(ctx, "tcp", e.key.addr.String())
	if err != nil {
		e.failed()
		return nil, &dialError{e.key.addr, err}
	}
	u := &upstream{ep: e}
	if err := u.init(c.(*net.TCPConn)); err != nil {
		_ = c.Close()
		return nil, &dialError{e.key.addr, err}
	}
	if e.tls != nil {
		t := tls.Client(c, e.tls)
		ctx, cancel := context.WithTimeout(ctx, e.dialer.Timeout)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			e.failed()
			return nil, &dialError{e.key.addr, fmt.Errorf("TLS handshake: %w", err)}
		}
		u.tls = t
	}
	e.fails.Store(0)
	e.avoid.Store(0)
	return u, nil
}

// failed has others preferred for a while, longer each time.
func (e *endpoint) failed() {
	n := min(e.fails.Add(1)-1, 10)
	e.avoid.Store(e.clock.coarse.Load() + int64(min(avoidMin<<n, avoidMax)))
}

func (e *endpoint) avoided() bool {
	at := e.avoid.Load()
	return at != 0 && e.clock.coarse.Load() < at
}

// dialError says in words why a replica cannot be reached.
type dialError struct {
	addr netip.AddrPort
	err  error
}

func (e *dialError) Unwrap() error { return e.err }

// reason is an error of a replica in words, with what it listens on instead if
// it refused the connection (row A28).
func (t *Target) reason(err error) string {
	var dial *dialError
	if t.cfg.Listening == nil || !errors.As(err, &dial) || !errors.Is(dial.err, syscall.ECONNREFUSED) {
		return err.Error()
	}
	if seen := t.cfg.Listening(dial.addr); seen != "" {
		return fmt.Sprintf("nothing listens on %s: %s", dial.addr, seen)
	}
	return err.Error()
}

func (e *dialError) Error() string {
	var timeout net.Error
	switch {
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nothing listens on %s: the workload listens on another port than the container port of the service, or on 127.0.0.1 only", e.addr)
	case errors.Is(e.err, syscall.EHOSTUNREACH) || errors.Is(e.err, syscall.ENETUNREACH):
		return fmt.Sprintf("there is no way to %s", e.addr)
	case errors.As(e.err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("%s does not answer to connects", e.addr)
	}
	var op *net.OpError
	if errors.As(e.err, &op) {
		return fmt.Sprintf("connect to %s: %s", e.addr, op.Err)
	}
	return fmt.Sprintf("connect to %s: %s", e.addr, e.err)
}

// pool is the endpoints of a route. It never changes.
type pool struct {
	members []member
	total   uint64 // of the weights
}

type member struct {
	ep     *endpoint
	weight uint64
	upTo   uint64 // sum of the weights up to and with this one
}

// pick takes two members by weight and returns the one with fewer requests in
// flight for its weight ("power of two choices"). One that fails, or was tried,
// is taken only if there is no other.
func (p *pool) pick(tried *endpoint) *endpoint {
	switch len(p.members) {
	case 0:
		return nil
	case 1:
		return p.members[0].ep
	}
	r := rand.Uint64()
	a, b := p.at(r>>32%p.total), p.at(r&(1<<32-1)%p.total)
	for range 8 {
		if a != b {
			break
		}
		b = p.at(rand.Uint64() % p.total)
	}
	if bad := func(m *member) bool { return m.ep == tried || m.ep.avoided() }; bad(a) || bad(b) {
		if !bad(a) {
			return a.ep
		}
		if !bad(b) {
			return b.ep
		}
		return p.sound(tried, a)
	}
	if b.ep.inflight.Load()*int64(a.weight) < a.ep.inflight.Load()*int64(b.weight) {
		return b.ep
	}
	return a.ep
}

func (p *pool) at(n uint64) *member {
	lo, hi := 0, len(p.members)-1
	for lo < hi {
		if mid := (lo + hi) / 2; n < p.members[mid].upTo {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return &p.members[lo]
}

// sound looks through all members, from anywhere, for one that does not fail;
// without one it is one that was not tried.
func (p *pool) sound(tried *endpoint, last *member) *endpoint {
	start := rand.IntN(len(p.members))
	other := last.ep
	for i := range p.members {
		ep := p.members[(start+i)%len(p.members)].ep
		if ep == tried {
			continue
		}
		if !ep.avoided() {
			return ep
		}
		other = ep
	}
	return other
}

// revive has an endpoint that left, and is back, keep connections again.
func (e *endpoint) revive() {
	e.mu.Lock()
	e.gone = false
	e.mu.Unlock()
}

// Pooled counts the connections to a replica's address that wait for the next
// request of HTTP/1.1.
func (t *Target) Pooled(addr netip.Addr) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, e := range t.endpoints {
		if k.addr.Addr() == addr {
			e.mu.Lock()
			n += len(e.idle)
			e.mu.Unlock()
		}
	}
	return n
}
