// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/webserver"
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
	log *slog.Logger
	web *webserver.Server
}

// New makes a server that listens nowhere yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	v := &views{read: cfg.Views, now: time.Now}
	return &Server{log: cfg.Log, web: webserver.New(webserver.Config{
		Name: "dashboard", Handler: func(address string) http.Handler { return handler(v, address) }, Log: cfg.Log, Listen: cfg.Listen,
	})}
}

// Name of the target.
func (s *Server) Name() string { return "dashboard" }

// Serves is empty: the page is no feature of a service.
func (s *Server) Serves() []model.Feature { return nil }

// Apply listens on the state's address. While the new address cannot be had,
// the old one stays open.
func (s *Server) Apply(_ context.Context, state *model.State) error {
	want := state.Settings.Listen.Dashboard
	opened, err := s.web.Serve(want)
	if opened == nil {
		return err
	}
	at := opened.String()
	s.log.Info("dashboard served", "url", "http://"+at+"/")
	if a, err := netip.ParseAddrPort(at); err == nil && !a.Addr().IsLoopback() {
		s.log.Warn("the dashboard has no login: whoever reaches its address can read it", "address", want)
	}
	return nil
}

// Addr is the address that is listened on; nil for none.
func (s *Server) Addr() net.Addr { return s.web.Addr() }

// Close stops listening, answers the connections that were accepted by then, and
// waits for its goroutines.
func (s *Server) Close() error { return s.web.Close() }
