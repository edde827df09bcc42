// SPDX-License-Identifier: Apache-2.0

// Package tcproute routes TCP connections by TLS server name: it is the Target
// that listens on the Postgres, MongoDB and Redis addresses of a state, reads a
// connection's preamble and ClientHello, finds the service of the name, and
// joins the connection with a replica. With passthrough the bytes are the
// replica's own TLS and go through a conn.Pump; with terminate TLS ends here.
// It obtains no certificate and checks no replica's health.
package tcproute

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Certificates has the certificates of names that are terminated: package
// autocert.
type Certificates interface {
	// GetCertificate is a tls.Config's.
	GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Holds tells whether there is a valid certificate for the name, without
	// waiting for one.
	Holds(host string) bool
	// Covering is a certificate that is good for a name, whether or not a
	// service has it; nil: none is.
	Covering(host string) *tls.Certificate
}

// Config is what a Router needs.
type Config struct {
	Log *slog.Logger // default slog.Default()
	// Certificates for terminate. Optional: without, such names have none yet.
	Certificates Certificates
	// Patience bounds the time until a client has said where it wants to go.
	// Default 10 s.
	Patience time.Duration
	// Sessions bounds the routed connections. Default: half of the process's
	// descriptors, less some for other work.
	Sessions int
	// Dial opens a connection to a replica; default conn.Dial, or the pump itself.
	Dial func(context.Context, netip.AddrPort) (*net.TCPConn, error)
	// Listen opens a listener; default conn.Listen.
	Listen func(network, address string) (net.Listener, error)
	// Sockets keeps the listening sockets; nil: they end with the process.
	Sockets conn.Sockets
	// Begin holds accepting back until it is closed: connections wait in the
	// kernel. nil: it begins at once.
	Begin <-chan struct{}
	Now   func() time.Time // default time.Now
	// Wake has a sleeping service started and returns its replicas when one is
	// ready; who is why, in words. It bounds the wait itself. nil: none sleeps.
	Wake func(ctx context.Context, name model.ServiceName, who string) ([]model.Backend, error)
	// Joined is told of each connection that was held once its service is awake.
	// Optional.
	Joined func(model.ServiceName)
	// Why says, in words, why a service has no replica; empty: not known. It
	// starts nothing. Default: nobody knows.
	Why func(model.ServiceName) string
}

// Router is the reconcile.Target. Create it with New; Close it.
type Router struct {
	cfg      Config
	acceptor map[Kind]*conn.Acceptor
	pump     *conn.Pump
	direct   bool // the pump may connect to replicas by itself
	flows    *flows
	ledger   *conn.Ledger
	failed   sync.Map // netip.AddrPort → time.Time: until when it is tried last
	results  results
	words    quietLog
	tls      map[Kind]*tls.Config // towards clients

	table atomic.Pointer[table]

	ctx    context.Context // of connections
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	applied   *model.State
	listeners map[Kind]*listener
	stopped   bool
}

// listener is an open address.
type listener struct {
	address string
	l       *net.TCPListener
}

// New makes a router that listens nowhere yet.
func New(cfg Config) (*Router, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Sessions == 0 {
		cfg.Sessions = defaultSessions()
	}
	direct := cfg.Dial == nil
	if direct {
		cfg.Dial = conn.Dial
	}
	if cfg.Listen == nil {
		cfg.Listen = conn.Listen
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Why == nil {
		cfg.Why = func(model.ServiceName) string { return "" }
	}
	pump, err := conn.NewPump(conn.PumpConfig{})
	if err != nil {
		return nil, err
	}
	r := &Router{
		cfg: cfg, pump: pump, direct: direct, flows: newFlows(), ledger: conn.NewLedger(),
		acceptor: map[Kind]*conn.Acceptor{}, tls: map[Kind]*tls.Config{}, listeners: map[Kind]*listener{},
	}
	r.words.log = cfg.Log
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.table.Store(&table{})
	for _, k := range Kinds {
		r.acceptor[k] = conn.NewAcceptor(conn.AcceptConfig{
			Handle:  func(ctx context.Context, c *conn.Conn) { r.handle(ctx, k, c) },
			Refused: func(netip.Addr) { r.results.add(k, Limited) },
			// Each takes a goroutine and some KiB.
			Pending: min(cfg.Sessions/2, 16384), PendingPerSource: 256,
			Begin: cfg.Begin, Log: cfg.Log.With("kind", k.Label()),
		})
		r.tls[k] = r.serverTLS(k)
	}
	return r, nil
}

// defaultSessions leaves descriptors for the rest of the process; a routed
// connection takes two.
func defaultSessions() int {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil || lim.Cur > 1<<22 {
		return 1 << 20
	}
	return max((int(lim.Cur)-1024)/2, 128)
}

func (r *Router) now() time.Time { return r.cfg.Now() }

// Name of the target.
func (r *Router) Name() string { return "tcproute" }

// Serves is expose.tcp.
func (r *Router) Serves() []model.Feature { return []model.Feature{model.FeatureTCPName} }

// Apply routes by the state from now on and listens where it says. Connections
// that are routed stay; those at replicas the state no longer has are cut when
// the service's drain is over. An address that cannot be had is an error, the
// other kinds are served nevertheless.
func (r *Router) Apply(_ context.Context, s *model.State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return nil
	}
	t := r.table.Load()
	if s != r.applied || len(t.problems) > 0 {
		t = compile(s, t)
		r.table.Store(t)
		r.applied = s
		r.forgetFailures()
	}
	r.flows.settle(live(s))
	var errs []error
	for _, k := range Kinds {
		address := ""
		if len(t.routes[k]) > 0 {
			address = k.address(s.Settings.Listen)
		}
		if err := r.listen(k, address); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Problems is what keeps names of the state from being served.
func (r *Router) Problems() []string { return r.table.Load().problems }

// listen opens the address of a kind; "": none. The old listener stays until
// the new one is there, unless it is what is in the way.
func (r *Router) listen(k Kind, address string) error {
	old := r.listeners[k]
	if old != nil && old.address == address {
		return nil
	}
	if address == "" {
		r.unlisten(k)
		return nil
	}
	tcp, err := r.open(k, address)
	if errors.Is(err, syscall.EADDRINUSE) && old != nil {
		r.unlisten(k)
		tcp, err = r.open(k, address)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen.%s %s: the address is in use by another program: stop it, or choose another address", k.Label(), address)
	case err != nil:
		return fmt.Errorf("listen.%s %s: %w", k.Label(), address, err)
	}
	r.unlisten(k)
	r.listeners[k] = &listener{address, tcp}
	r.wg.Go(func() { _ = r.acceptor[k].Serve(r.ctx, tcp) })
	r.cfg.Log.Info("routing by server name", "kind", k.Label(), "listen", tcp.Addr())
	return nil
}

// open listens, on a predecessor's socket if there is one.
func (r *Router) open(k Kind, address string) (*net.TCPListener, error) {
	tcp, err := conn.Inherit(r.cfg.Sockets, socketName(k, address))
	if tcp == nil && err == nil {
		var l net.Listener
		if l, err = r.cfg.Listen("tcp", address); err == nil {
			var ok bool
			if tcp, ok = l.(*net.TCPListener); !ok {
				_ = l.Close()
				err = errors.New("not a TCP listener")
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if r.cfg.Sockets != nil {
		r.cfg.Sockets.Keep(socketName(k, address), tcp)
	}
	return tcp, nil
}

// socketName is a listener's name in Sockets.
func socketName(k Kind, address string) string { return k.Label() + " " + address }

// unlisten gives the address of a kind up, for good.
func (r *Router) unlisten(k Kind) {
	if old := r.listeners[k]; old != nil {
		r.close(k)
		if r.cfg.Sockets != nil {
			r.cfg.Sockets.Drop(socketName(k, old.address))
		}
	}
}

// close ends the listener of a kind; a successor may go on with its socket.
func (r *Router) close(k Kind) {
	if old := r.listeners[k]; old != nil {
		_ = old.l.Close()
		delete(r.listeners, k)
	}
}

// Addr is where a kind is listened for; nil: nowhere.
func (r *Router) Addr(k Kind) net.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.listeners[k]; l != nil {
		return l.l.Addr()
	}
	return nil
}

// forgetFailures drops what was noted of replicas and no longer counts.
func (r *Router) forgetFailures() {
	now := r.now()
	r.failed.Range(func(a, until any) bool {
		if now.After(until.(time.Time)) {
			r.failed.Delete(a)
		}
		return true
	})
}

// Shutdown takes no more connections and waits until those that are there have
// ended, or cuts them when ctx ends. The error tells of these.
func (r *Router) Shutdown(ctx context.Context) error {
	r.stop()
	settled := make(chan struct{}) // all of them are routed, or answered
	go func() {
		defer close(settled)
		r.wg.Wait()
	}()
	select {
	case <-settled:
	case <-ctx.Done():
	}
	if err := r.flows.wait(ctx); err != nil {
		n := r.flows.count()
		r.flows.cutAll()
		return fmt.Errorf("%d connections routed by name had not ended and were cut", n)
	}
	return nil
}

// Open counts the connections, those included that are not routed yet.
func (r *Router) Open() int {
	n := r.flows.count()
	for _, a := range r.acceptor {
		n += a.Pending()
	}
	return n
}

// stop takes no more connections.
func (r *Router) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for _, k := range Kinds {
		r.close(k)
	}
}

// Close cuts everything and waits for its goroutines.
func (r *Router) Close() error {
	r.stop()
	r.cancel()
	r.flows.cutAll()
	r.wg.Wait()
	r.pump.Close()
	return nil
}
