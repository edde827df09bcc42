// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Config is what a Server needs.
type Config struct {
	Views Views
	Log   *slog.Logger // default slog.Default()
	// Listen opens the address; default net.Listen.
	Listen func(network, address string) (net.Listener, error)
}

// Server is the listener as a reconcile.Target: Apply makes it listen on the
// state's listen.dashboard. Close it.
type Server struct {
	cfg   Config
	views *views

	mu      sync.Mutex
	address string // that is open; "" for none
	l       net.Listener
	http    *http.Server
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
	return &Server{cfg: cfg, views: &views{read: cfg.Views, now: time.Now}}
}

// Name of the target.
func (s *Server) Name() string { return "dashboard" }

// Serves is empty: the page is no feature of a service.
func (s *Server) Serves() []model.Feature { return nil }

// Apply listens on the state's address. While the new address cannot be had,
// the old one stays open.
func (s *Server) Apply(_ context.Context, state *model.State) error {
	want := state.Settings.Listen.Dashboard
	s.mu.Lock()
	defer s.mu.Unlock()
	if want == s.address {
		return nil
	}
	if want == "" {
		s.closeLocked()
		return nil
	}
	l, err := s.cfg.Listen("tcp", want)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen.dashboard %s: the address is in use by another program: stop it, or choose another address", want)
	case err != nil:
		return fmt.Errorf("listen.dashboard %s: %w", want, err)
	}
	s.closeLocked()
	srv := &http.Server{
		Handler: handler(s.views, want), ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	s.address, s.l, s.http = want, l, srv
	s.wg.Go(func() { s.serve(want, l, srv) })
	s.cfg.Log.Info("dashboard served", "url", "http://"+l.Addr().String()+"/")
	if a, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !a.Addr().IsLoopback() {
		s.cfg.Log.Warn("the dashboard has no login: whoever reaches its address can read it", "address", want)
	}
	return nil
}

// serve forgets the listener when it ends by itself: the next Apply opens it
// again.
func (s *Server) serve(address string, l net.Listener, srv *http.Server) {
	err := srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return
	}
	s.cfg.Log.Error("serve dashboard", "address", address, "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == srv {
		s.address, s.l, s.http = "", nil, nil
	}
}

// Addr is the address that is listened on; nil for none.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.l == nil {
		return nil
	}
	return s.l.Addr()
}

// lastWait bounds how long Close waits for answers under way.
const lastWait = 2 * time.Second

// Close stops listening and waits for its goroutine, and a moment for answers
// that are under way.
func (s *Server) Close() error {
	s.mu.Lock()
	srv := s.http
	s.mu.Unlock()
	if srv != nil {
		ctx, cancel := context.WithTimeout(context.Background(), lastWait)
		defer cancel()
		_ = srv.Shutdown(ctx)
		s.wg.Wait() // what was accepted meanwhile is known only now
		_ = srv.Shutdown(ctx)
	}
	s.mu.Lock()
	s.closeLocked()
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

func (s *Server) closeLocked() {
	if s.http != nil {
		_ = s.http.Close()
		_ = s.l.Close() // Serve may not have begun
	}
	s.address, s.l, s.http = "", nil, nil
}
