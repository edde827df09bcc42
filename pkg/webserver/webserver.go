// SPDX-License-Identifier: Apache-2.0

// Package webserver is the listener behind the agent's own pages: HTTP at an
// address that follows the config, and that ends without leaving a client
// unanswered. The clients' traffic does not come by here: see pkg/ingress.
package webserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// Config is what a Server needs.
type Config struct {
	// Name is the listener's key in the config under "listen", for errors and the
	// log.
	Name string
	// Handler makes what answers at an address.
	Handler func(address string) http.Handler
	Log     *slog.Logger // default slog.Default()
	// Listen opens the address; default net.Listen.
	Listen func(network, address string) (net.Listener, error)
}

// Server listens on one address at a time. Close it.
type Server struct {
	cfg Config

	mu      sync.Mutex
	address string // that is open; "" for none
	l       net.Listener
	running *Graceful
	wg      sync.WaitGroup
}

// New makes a server that listens nowhere yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Listen == nil {
		cfg.Listen = net.Listen
	}
	return &Server{cfg: cfg}
}

// Serve listens on the address, on none if it is "", and returns where if that
// is new. While the new address cannot be had, the old one stays open.
func (s *Server) Serve(address string) (opened net.Addr, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if address == s.address {
		return nil, nil
	}
	if address == "" {
		s.endLocked()
		return nil, nil
	}
	l, err := s.cfg.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen.%s %s: the address is in use by another program: stop it, or choose another address", s.cfg.Name, address)
	case err != nil:
		return nil, fmt.Errorf("listen.%s %s: %w", s.cfg.Name, address, err)
	}
	s.endLocked()
	g := NewGraceful(&http.Server{
		Handler: s.cfg.Handler(address), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}, l)
	s.address, s.l, s.running = address, l, g
	s.wg.Go(func() { s.run(address, g) })
	return l.Addr(), nil
}

// run forgets the listener when it ends by itself: the next Serve opens it
// again.
func (s *Server) run(address string, g *Graceful) {
	err := g.Serve()
	if err == nil {
		return
	}
	s.cfg.Log.Error("serve "+s.cfg.Name, "address", address, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == g {
		s.address, s.l, s.running = "", nil, nil
	}
}

// Addr is the address that is listened on; nil for none.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return nil
	}
	return s.l.Addr()
}

// lastWait bounds how long a client may take for its request, and its answer,
// once the server ends.
const lastWait = 2 * time.Second

// Close stops listening, answers the connections that were accepted by then, and
// waits for its goroutines.
func (s *Server) Close() error {
	s.mu.Lock()
	s.endLocked()
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// endLocked ends what runs: its listener at once, its connections beside what
// comes next.
func (s *Server) endLocked() {
	if g := s.running; g != nil {
		g.refuse()
		s.wg.Go(func() { g.End(lastWait) })
	}
	s.address, s.l, s.running = "", nil, nil
}
