// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/webserver"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what a Server needs.
type Config struct {
	Reader Reader
	Build  Build
	Keys   http.Handler // answers for the public keys of access tokens; nil: nobody does
	Log    *slog.Logger // default slog.Default()
	// Listen opens the address; default net.Listen.
	Listen func(network, address string) (net.Listener, error)
}

// Server is the listener as a reconcile.Target: Apply makes it listen on the
// state's listen.metrics. Close it.
type Server struct {
	log *slog.Logger
	web *webserver.Server
}

// New makes a server that listens nowhere yet.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	h := Handler(cfg.Reader, cfg.Build, cfg.Keys)
	return &Server{log: cfg.Log, web: webserver.New(webserver.Config{
		Name: "metrics", Handler: func(string) http.Handler { return h }, Log: cfg.Log, Listen: cfg.Listen,
	})}
}

// Handler answers /metrics, /healthz and /readyz, and keys, where there are any,
// the JWK set.
func Handler(r Reader, b Build, keys http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(NewRegistry(r, b), promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if behind := r.Behind(); len(behind) > 0 {
			text(w, http.StatusServiceUnavailable, strings.Join(behind, "\n")+"\n")
			return
		}
		text(w, http.StatusOK, "ready\n")
	})
	if keys != nil {
		mux.Handle("GET /.well-known/jwks.json", keys)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		text(w, http.StatusOK, "fairlead: /metrics /healthz /readyz\n")
	})
	return mux
}

func text(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
}

// Name of the target.
func (s *Server) Name() string { return "metrics" }

// Serves is empty: metrics are no feature of a service.
func (s *Server) Serves() []model.Feature { return nil }

// Apply listens on the state's address. While the new address cannot be had,
// the old one stays open.
func (s *Server) Apply(_ context.Context, state *model.State) error {
	opened, err := s.web.Serve(state.Settings.Listen.Metrics)
	if opened != nil {
		s.log.Info("metrics served", "url", "http://"+opened.String()+"/metrics")
	}
	return err
}

// Addr is the address that is listened on; nil for none.
func (s *Server) Addr() net.Addr { return s.web.Addr() }

// Close stops listening, answers the connections that were accepted by then, and
// waits for its goroutines.
func (s *Server) Close() error { return s.web.Close() }
