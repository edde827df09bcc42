// SPDX-License-Identifier: Apache-2.0

// Package ingress is the HTTP front: a reconcile.Target that routes requests by
// host and path to service ports and forwards them to replicas.
//
// Every change of state compiles a new route table, which never changes and is
// swapped in by one pointer; requests under way keep theirs. HTTP/1.1 has a path
// of its own: one goroutine for a connection, heads parsed and rewritten in
// place (package http1), no allocation for a request, pooled connections to
// replicas, buffers only while bytes are pending. HTTP/2 goes through net/http
// and its httputil.ReverseProxy. Routing, limits, errors and what
// is told to replicas are decided in one place for both (decide.go, fault.go).
//
// It obtains no certificates and checks no domains: see Certificates.
package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Certificates is what the front asks about TLS names. It must be safe for
// concurrent use.
type Certificates interface {
	// GetCertificate is that of tls.Config. nil, nil: there is none.
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Holds tells whether there is a valid certificate for a host, so that
	// clients may be sent to TLS (row A15).
	Holds(host string) bool
	// HTTPChallenge answers an ACME http-01 challenge, or returns false.
	HTTPChallenge(http.ResponseWriter, *http.Request) bool
}

// Config is what a Target needs.
type Config struct {
	Certificates Certificates // nil: no TLS, everything is served in plain HTTP
	Limits       Limits
	Access       *slog.Logger // of the access log, if the state asks for one; default Log
	Sockets      conn.Sockets // nil: listening sockets end with the process
	// Begin holds accepting back until it is closed: connections wait in the
	// kernel. nil: it begins at once.
	Begin <-chan struct{}
	// Keys is the JWK set that access tokens are verified with, and how long it
	// may be kept; the platform's host answers with it. nil: there is none.
	Keys func() (set []byte, maxAge time.Duration)
	// Wake has a sleeping service started and returns when a replica of it is
	// ready; who is why, in words. It bounds the wait itself. nil: none sleeps.
	// An error that has a method RetryAfter() time.Duration says when to ask
	// again.
	Wake func(ctx context.Context, name model.ServiceName, who string) error
	// Joined is told of each request that was held once it can be sent on.
	// Optional.
	Joined func(model.ServiceName)
	// Why says, in words, why a service has no replica, and after how long to
	// ask again; empty: not known. It is asked before a 503, and starts nothing.
	// nil: nobody knows.
	Why func(model.ServiceName) (reason string, retry time.Duration)
	// Listening says, in words, what a replica that refuses connections at an
	// address listens on instead; empty: not known. It is asked before a 502,
	// from many goroutines, and returns within about a second. nil: nobody knows.
	Listening func(netip.AddrPort) string
	Log       *slog.Logger // default slog.Default()
}

// Target is the front. Create it with New, end it with Shutdown or Close.
type Target struct {
	cfg       Config
	clock     *clock
	dialer    net.Dialer
	tlsConfig *tls.Config
	acme      *tls.Config // of tls-alpn-01
	refusing  *tls.Config // of names that are not served
	h2        *http.Server
	handed    *handed // connections for h2
	proxy     http.Handler

	access   accessLog
	table    atomic.Pointer[table]
	draining atomic.Bool
	nobody   *service // of requests that have no route

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // accept loops, the clock and sessions

	mu        sync.Mutex // of what Apply changes
	services  map[model.ServiceName]*service
	endpoints map[endpointKey]*endpoint
	listeners map[bool]*listener // by whether it is of TLS
	ticked    int64
	clients   clients
	ledger    *conn.Ledger // of the services' rate limits

	smu      sync.Mutex // of the rest; never held together with mu for long
	sessions map[*session]struct{}
	closed   bool
}

// New makes a front that listens nowhere yet.
func New(cfg Config) *Target {
	cfg.Limits.defaults()
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	t := &Target{
		cfg: cfg, clock: newClock(cfg.Limits.Tick), services: map[model.ServiceName]*service{}, endpoints: map[endpointKey]*endpoint{},
		listeners: map[bool]*listener{}, sessions: map[*session]struct{}{}, nobody: &service{text: "none"},
		handed: newHanded(), ledger: conn.NewLedger(),
		dialer: net.Dialer{Timeout: cfg.Limits.Connect, KeepAlive: 15 * time.Second},
	}
	if t.access.log = cfg.Access; t.access.log == nil {
		t.access.log = cfg.Log
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.table.Store(&table{})
	t.setTLS()
	t.setH2()
	t.wg.Go(func() { t.clock.run(t.ctx, t.tick) })
	return t
}

// Name is "ingress".
func (t *Target) Name() string { return "ingress" }

// Serves lists what the front makes real.
func (t *Target) Serves() []model.Feature {
	return []model.Feature{model.FeatureHTTP, model.FeaturePlaceholder}
}

// Apply routes by the state. Unless it drains, it listens only if a service asks for HTTP; an
// address that cannot be had is an error, and what else there is works.
func (t *Target) Apply(_ context.Context, s *model.State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.access.oneIn.Store(s.Settings.AccessLog.OneIn)
	c, err := t.compile(s)
	t.table.Store(c.table)
	for k, e := range t.endpoints {
		if c.endpoints[k] == nil {
			e.prune(0, true)
		}
	}
	for _, e := range c.endpoints {
		e.revive()
	}
	t.services, t.endpoints = c.services, c.endpoints
	if t.draining.Load() {
		return err // requests of connections that are there
	}
	return errors.Join(err, t.listen(s))
}

// tick is called by the clock.
func (t *Target) tick(now int64) {
	t.mu.Lock()
	if now-t.ticked < int64(time.Second) {
		t.mu.Unlock()
		return
	}
	t.ticked = now
	all := make([]*endpoint, 0, len(t.endpoints))
	for _, e := range t.endpoints {
		all = append(all, e)
	}
	t.mu.Unlock()
	for _, e := range all {
		e.prune(now, false)
	}
	t.tickSessions(now)
}

// tickSessions looks for clients that have left.
func (t *Target) tickSessions(now int64) {
	t.smu.Lock()
	defer t.smu.Unlock()
	for s := range t.sessions {
		s.look(now)
	}
}

// asksFor tells whether anything is served by HTTP, and anything with TLS.
func asksFor(s *model.State) (plain, tls bool) {
	for i := range s.Services {
		for _, h := range s.Services[i].HTTP {
			plain, tls = true, tls || h.TLS
		}
	}
	own := s.Settings.Tokens.Own
	return plain || own, tls || own
}
