// SPDX-License-Identifier: Apache-2.0

// Package autocert obtains and renews the certificates of the host names a
// state serves, by ACME (RFC 8555), and hands them to the fronts: one for each
// name by http-01 or tls-alpn-01, and, where the settings have dns-01, one
// wildcard for all free names that differ in their first label. The library certmagic does the protocol, the storage and its
// locks, so that several agents over one storage make one order between them;
// what is ordered, when, and what a person is told of it is decided here.
//
// It listens nowhere: the fronts on port 80 and 443 ask it. Nothing but names
// of the state is ever ordered.
package autocert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Config is what a Target needs.
type Config struct {
	// StateDir keeps accounts, keys and certificates, mode 0700. Several
	// agents may share it.
	StateDir string
	Log      *slog.Logger // default slog.Default()
	// RetryMin is the wait after the first failure; it grows with each one up
	// to RetryMax. Defaults 15 s and 6 h: at most five orders in the first hour,
	// which is what Let's Encrypt allows a name to fail.
	RetryMin, RetryMax time.Duration
}

// Target keeps one certificate for each name that the state serves with TLS.
// Create it with New, close it with Close.
type Target struct {
	cfg   Config
	port  *busyPort
	cache *certmagic.Cache
	slots chan struct{} // bounds orders that are under way

	// serving is what handshakes and challenges read.
	serving atomic.Pointer[serving]

	ctx    context.Context // of the keepers
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	settings settings
	refused  map[string]string // host → why it is never ordered
}

// serving is replaced whole.
type serving struct {
	authority *authority
	keepers   map[string]*keeper // by what the certificate is for
	hosts     map[string]holding // by host of the state
}

// holding is what serves one host.
type holding struct {
	keeper *keeper
	before *leaf // served until the keeper has one: the host's own, or the wildcard's of before
}

func (h holding) leaf() *leaf {
	if c := h.keeper.cert.Load(); c != nil {
		return c
	}
	return h.before
}

// settings are what a change of makes every certificate be looked at anew.
type settings struct {
	acme model.ACME
	ca   [sha256.Size]byte // of the file acme.CAFile
	key  [sha256.Size]byte // of the file acme.DNS01.KeyFile, as far as it can be read
}

// ordersAtOnce bounds the orders under way; certmagic itself begins at most
// ten in ten seconds.
const ordersAtOnce = 8

// New makes a target that has no names yet. The caller closes it.
func New(cfg Config) (*Target, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.RetryMin == 0 {
		cfg.RetryMin = 15 * time.Second
	}
	if cfg.RetryMax == 0 {
		cfg.RetryMax = 6 * time.Hour
	}
	if cfg.StateDir == "" {
		return nil, errors.New("make certificate store: no directory given")
	}
	dir, err := filepath.Abs(cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("find certificate store: %w", err)
	}
	cfg.StateDir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificate store: %w", err)
	}
	port, err := newBusyPort()
	if err != nil {
		return nil, err
	}
	t := &Target{cfg: cfg, port: port, cache: newCache(), slots: make(chan struct{}, ordersAtOnce)}
	t.serving.Store(&serving{})
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t, nil
}

// Name of the target.
func (t *Target) Name() string { return "certificates" }

// Serves is empty: the fronts serve the features that certificates are for.
func (t *Target) Serves() []model.Feature { return nil }

// Apply keeps certificates for the names of the state, and for no other. It
// asks nobody: orders are made in the background, and Status tells of them.
// The error is that of acme.caFile, or of a setting nobody can order with; the
// names are then kept with the settings before.
func (t *Target) Apply(_ context.Context, s *model.State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return errors.New("certificates are closed")
	}
	now := t.serving.Load()
	next := &serving{authority: now.authority, keepers: map[string]*keeper{}, hosts: map[string]holding{}}
	err := t.configure(s.Settings.ACME, next)
	hosts, refused := wanted(s)
	t.refused = refused
	if next.authority != nil {
		for host, subject := range subjects(s, hosts) {
			k := t.keeper(subject, now, next)
			next.hosts[host] = holding{k, t.before(host, k, now)}
		}
	}
	t.serving.Store(next)
	for host, k := range now.keepers {
		if next.keepers[host] != k {
			k.stop()
		}
	}
	for host, k := range next.keepers {
		if now.keepers[host] != k {
			t.wg.Go(k.run)
		}
	}
	return err
}

// keeper is the one of a subject: a new one if there is none or its authority
// changed.
func (t *Target) keeper(subject string, now, next *serving) *keeper {
	if k := next.keepers[subject]; k != nil {
		return k
	}
	k := now.keepers[subject]
	switch {
	case k == nil:
		k = newKeeper(t, next.authority, subject, nil)
	case k.authority != next.authority:
		k = newKeeper(t, next.authority, subject, k.cert.Load()) // the old one serves until the new one is there
	}
	next.keepers[subject] = k
	return k
}

// before is what serves a host until its keeper has a certificate: what serves
// it now, after a start what is stored for the host itself.
func (t *Target) before(host string, k *keeper, now *serving) *leaf {
	if k.cert.Load() != nil {
		return nil
	}
	if h, ok := now.hosts[host]; ok {
		return h.leaf()
	}
	if k.host == host {
		return nil // the keeper reads it itself
	}
	c, err := k.authority.load(t.ctx, host)
	if err != nil {
		return nil
	}
	return c
}

// configure sets the authority of the settings, anew only if they changed.
func (t *Target) configure(a model.ACME, to *serving) error {
	want := settings{acme: a}
	var pem []byte
	if a.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(a.CAFile); err != nil {
			return fmt.Errorf("acme.caFile: %w", err)
		}
		want.ca = sha256.Sum256(pem)
	}
	if a.DNS01.KeyFile != "" {
		if key, err := os.ReadFile(a.DNS01.KeyFile); err == nil { // else the orders that need it say why not
			want.key = sha256.Sum256(key)
		}
	}
	if to.authority != nil && reflect.DeepEqual(want, t.settings) {
		return nil
	}
	authority, err := newAuthority(t, a, pem)
	if err != nil {
		return err
	}
	t.settings, to.authority = want, authority
	return nil
}

// Close ends all orders that are under way and waits for them. What is served
// goes on being served.
func (t *Target) Close() error {
	t.mu.Lock()
	closed := t.ctx.Err() != nil
	t.cancel()
	t.mu.Unlock()
	if closed {
		return nil
	}
	t.wg.Wait()
	t.cache.Stop()
	return t.port.close()
}

// Status lists every name of the state that asks for a certificate, by name.
func (t *Target) Status() []Certificate {
	t.mu.Lock()
	refused := maps.Clone(t.refused)
	t.mu.Unlock()
	now := t.serving.Load()
	covered := map[*keeper][]string{}
	for host, h := range now.hosts {
		if h.keeper.host != host {
			covered[h.keeper] = append(covered[h.keeper], host)
		}
	}
	var out []Certificate
	for _, k := range now.keepers {
		c := k.status()
		c.Covers = covered[k]
		slices.SortFunc(c.Covers, compareHosts)
		out = append(out, c)
	}
	for host, why := range refused {
		out = append(out, Certificate{Host: host, State: Refused, Error: why})
	}
	slices.SortFunc(out, func(a, b Certificate) int { return compareHosts(a.Host, b.Host) })
	return out
}
