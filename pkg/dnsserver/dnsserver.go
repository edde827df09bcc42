// SPDX-License-Identifier: Apache-2.0

// Package dnsserver answers the internal names of services with their virtual
// IPs, over UDP and TCP, and forwards every other question. It keeps no cache
// and is no resolver: what it forwards to is. Those who may not use the
// forwarding (strangers) get the internal names only.
package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Config is what a Target needs.
type Config struct {
	Log *slog.Logger // default slog.Default()
	// Own makes exactly these addresses local to this host, and those of the
	// last call that are not among them no more. Default: nothing.
	Own func([]netip.Addr) error
	// Take gives a predecessor's socket of a name, nil if there is none, and Keep
	// notes one for a successor. Default: there is neither.
	Take func(name string) *os.File
	Keep func(name string, socket syscall.Conn)
	// ResolvConf is the host's own file, which is read for name servers and the
	// search list. Default /etc/resolv.conf.
	ResolvConf string
	// Timeout bounds one try of one upstream. Default 2 s.
	Timeout time.Duration
	// Forwards bounds the questions that wait for an upstream. Default 1024.
	Forwards int
}

// Target is the name server. Create it with New, close it with Close.
type Target struct {
	cfg      Config
	zone     atomic.Pointer[zone]
	forwards chan struct{}
	counts   counts

	mu     sync.Mutex
	server *server      // nil: it listens nowhere
	owned  []netip.Addr // that were made local
	known  bool         // owned is all there is
	host   hostFile
}

// New makes a name server that listens nowhere yet.
func New(cfg Config) *Target {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Own == nil {
		cfg.Own = func([]netip.Addr) error { return nil }
	}
	if cfg.Take == nil {
		cfg.Take = func(string) *os.File { return nil }
	}
	if cfg.Keep == nil {
		cfg.Keep = func(string, syscall.Conn) {}
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 2 * time.Second
	}
	if cfg.Forwards == 0 {
		cfg.Forwards = 1024
	}
	t := &Target{cfg: cfg, forwards: make(chan struct{}, cfg.Forwards)}
	t.zone.Store(&zone{})
	return t
}

// Name of the target.
func (t *Target) Name() string { return "dns" }

// Serves is listen.dns.
func (t *Target) Serves() []model.Feature { return []model.Feature{model.FeatureDNS} }

// Apply answers with the state's names and listens on its listen.dns. While a
// new address cannot be had, the old one stays open.
func (t *Target) Apply(_ context.Context, s *model.State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	want := s.Settings.Listen.DNS
	if want == "" {
		t.zone.Store(&zone{})
		return t.closeLocked()
	}
	address, err := parse(want)
	if err != nil {
		return err
	}
	hostErr := t.host.read(t.cfg.ResolvConf)
	z := newZone(s, &t.host, address)
	t.zone.Store(z)
	if len(z.upstreams) == 0 {
		hostErr = errors.Join(hostErr, fmt.Errorf("no name server to forward to: %s names none but this one; set dns.upstream", t.cfg.ResolvConf))
	}
	return errors.Join(t.listen(want, address, s.Settings.Network), hostErr)
}

// listen opens the address, unless it is open, and sees that it is local.
func (t *Target) listen(want string, address netip.AddrPort, n model.Network) error {
	var ours []netip.Addr
	if a := address.Addr(); within(n.Services, a) || within(n.Services6, a) {
		ours = []netip.Addr{a}
	}
	if t.server != nil && t.server.address == want && t.server.lives() {
		return t.own(ours)
	}
	if err := t.own(append(ours, t.owned...)); err != nil { // the old one listens still
		return fmt.Errorf("listen.dns %s: %w", want, err)
	}
	if t.server != nil && !t.server.lives() { // one half of it still holds the port
		t.server.close()
		t.server = nil
	}
	next, err := listen(want, t, ours != nil)
	if errors.Is(err, syscall.EADDRINUSE) && t.server != nil && t.server.addr().Port() == address.Port() {
		// ":53" after "127.0.0.1:53": they exclude each other.
		t.server.close()
		t.server = nil
		next, err = listen(want, t, ours != nil)
	}
	if err != nil {
		return explain(want, err)
	}
	if t.server != nil {
		t.server.close()
	}
	t.server = next
	t.cfg.Log.Info("internal names are served", "address", next.addr())
	return t.own(ours)
}

// own makes exactly these addresses local. What an earlier agent made is
// unknown at first; later there is nothing to mend where nothing is owned.
func (t *Target) own(addrs []netip.Addr) error {
	if t.known && len(addrs) == 0 && len(t.owned) == 0 {
		return nil
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	if err := t.cfg.Own(addrs); err != nil {
		return err
	}
	t.owned, t.known = addrs, true
	return nil
}

// Addr is where it listens; the zero value for nowhere.
func (t *Target) Addr() netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.server == nil {
		return netip.AddrPort{}
	}
	return t.server.addr()
}

// Close stops listening and waits for what is under way. An address that was
// made local stays so for the next agent.
func (t *Target) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.server != nil {
		t.server.close()
		t.server = nil
	}
	return nil
}

func (t *Target) closeLocked() error {
	if t.server != nil {
		t.server.close()
		t.server = nil
	}
	if err := t.own(nil); err != nil {
		return fmt.Errorf("give up the name server's address: %w", err)
	}
	return nil
}

// parse reads ":PORT" or "IP:PORT".
func parse(listen string) (netip.AddrPort, error) {
	if len(listen) > 0 && listen[0] == ':' {
		any, err := netip.ParseAddrPort("0.0.0.0" + listen)
		return netip.AddrPortFrom(netip.Addr{}, any.Port()), err
	}
	a, err := netip.ParseAddrPort(listen)
	if err != nil {
		return a, fmt.Errorf("listen.dns %s: %w", listen, err)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

func within(p netip.Prefix, a netip.Addr) bool { return p.IsValid() && p.Contains(a) }
