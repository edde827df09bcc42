// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// AcceptConfig is what an Acceptor needs.
type AcceptConfig struct {
	// Handle serves one connection and owns it: it closes it, or hands it on.
	// It must end soon after ctx has. It runs in a goroutine of its own.
	Handle func(ctx context.Context, c *Conn)
	// Refused is told of every connection that was closed because of a limit.
	// Optional.
	Refused func(peer netip.Addr)
	// Pending bounds the connections that Handle has and that are not Routed
	// yet. Default 4096.
	Pending int
	// PendingPerSource bounds them for one IPv4 address or IPv6 /64, so that
	// no single client can take all places. Default Pending / 8.
	PendingPerSource int
	// Begin holds the accept loops back until it is closed: connections wait in
	// the kernel. nil: they begin at once.
	Begin <-chan struct{}
	Log   *slog.Logger // default slog.Default()
}

// Acceptor runs accept loops with one set of limits. Create it with
// NewAcceptor.
type Acceptor struct {
	cfg AcceptConfig

	mu      sync.Mutex
	pending int
	sources map[netip.Addr]int
}

// NewAcceptor makes an acceptor.
func NewAcceptor(cfg AcceptConfig) *Acceptor {
	if cfg.Pending == 0 {
		cfg.Pending = 4096
	}
	if cfg.PendingPerSource == 0 {
		cfg.PendingPerSource = max(cfg.Pending/8, 1)
	}
	if cfg.Refused == nil {
		cfg.Refused = func(netip.Addr) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Acceptor{cfg: cfg, sources: map[netip.Addr]int{}}
}

// Longest pause after an error of accept that may pass: no descriptors, no
// memory, a connection that was reset in the queue.
const acceptPause = time.Second

// Serve accepts until the listener is closed, which ctx's end does too, and
// returns when every Handle it called has. The error is nil after a close.
func (a *Acceptor) Serve(ctx context.Context, l *net.TCPListener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	jobs := make(chan *Conn)
	defer close(jobs)
	pause := time.Duration(0)
	if a.cfg.Begin != nil {
		select {
		case <-a.cfg.Begin:
		case <-ctx.Done():
			return nil // what waits in the socket's queue is a predecessor's, who has the socket too
		}
	}
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			pause = min(max(2*pause, 5*time.Millisecond), acceptPause)
			a.cfg.Log.Warn("accept connection", "listen", l.Addr(), "error", err, "again in", pause)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		conn := New(c)
		release, ok := a.admit(Source(conn.Peer.Addr()))
		if !ok {
			_ = c.Close()
			a.cfg.Refused(conn.Peer.Addr())
			continue
		}
		conn.routed = release
		select {
		case jobs <- conn:
		default:
			wg.Go(func() { a.work(ctx, conn, jobs) })
		}
	}
}

// idleWork is how long a goroutine that has handled a connection waits for
// another one: its stack has grown already, which is a part of the cost.
const idleWork = time.Second

// work handles connections until there are none for a while.
func (a *Acceptor) work(ctx context.Context, c *Conn, jobs <-chan *Conn) {
	idle := time.NewTimer(idleWork)
	defer idle.Stop()
	for {
		a.cfg.Handle(ctx, c)
		c.Routed()
		idle.Reset(idleWork)
		select {
		case next, ok := <-jobs:
			if !ok {
				return
			}
			c = next
		case <-idle.C:
			return
		}
	}
}

// Pending is the number of connections that are not Routed yet.
func (a *Acceptor) Pending() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pending
}

// admit takes a place, and returns how to give it back.
func (a *Acceptor) admit(source netip.Addr) (release func(), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending >= a.cfg.Pending || a.sources[source] >= a.cfg.PendingPerSource {
		return nil, false
	}
	a.pending++
	a.sources[source]++
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.pending--
		if a.sources[source]--; a.sources[source] == 0 {
			delete(a.sources, source)
		}
	}), true
}

// Source is what counts as one client where clients are limited: an IPv4
// address, or an IPv6 /64, which one host has at its will.
func Source(a netip.Addr) netip.Addr {
	if a.Is4() || !a.IsValid() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}
