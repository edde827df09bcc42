// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/fairlead-lb/fairlead/pkg/autocert/dns01"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

// orderTimeout bounds one order, the wait for others over the same storage and
// for the library's rate limit included.
const orderTimeout = 5 * time.Minute

// errUnusable is a stored certificate that cannot be served.
var errUnusable = errors.New("stored certificate is unusable")

// authority is one certificate authority: where orders go and what they are
// kept in.
type authority struct {
	directory string
	storage   certmagic.Storage
	issuer    *certmagic.ACMEIssuer
	web       orders        // by http-01 and tls-alpn-01
	dns       orders        // by dns-01, which alone may sign wildcards
	solver    *dns01.Solver // of dns; nil: there is none
	timeout   time.Duration // of one order by dns-01
	http      *http.Client  // for what the library does not ask
	advisor   advisor
}

// orders are the library's settings for one kind of challenge.
type orders struct {
	magic *certmagic.Config
	// plain does not tell which certificate an order replaces (RFC 9773 section
	// 5): an authority that does not know that one refuses the order.
	plain *certmagic.Config
}

// leaf is a certificate with its key; the first of the chain is parsed.
type leaf struct{ tls tls.Certificate }

func (l *leaf) x509() *x509.Certificate { return l.tls.Leaf }

func (l *leaf) same(o *leaf) bool {
	return o != nil && l.x509().Equal(o.x509())
}

// newAuthority makes the authority of the settings. ca is the text of
// acme.caFile, if there is one; it replaces the system's roots.
func newAuthority(t *Target, acme model.ACME, ca []byte) (*authority, error) {
	a := &authority{
		directory: acme.Directory, advisor: newAdvisor(), storage: &certmagic.FileStorage{Path: t.cfg.StateDir},
		timeout: orderTimeout + acme.DNS01.Propagation,
	}
	var roots *x509.CertPool
	if ca != nil {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("acme.caFile %s: holds no certificate in PEM form", acme.CAFile)
		}
	}
	log := zap.New(slogCore{t.cfg.Log})
	with := func(solver acmez.Solver, replaces bool) (*certmagic.Config, *certmagic.ACMEIssuer) {
		c := certmagic.New(t.cache, certmagic.Config{
			Storage: a.storage, Logger: log, OnEvent: onEvent, DisableARI: !replaces,
			OCSP: certmagic.OCSPConfig{DisableStapling: true},
		})
		issuer := certmagic.NewACMEIssuer(c, certmagic.ACMEIssuer{
			CA: acme.Directory, Email: acme.Email, Agreed: true, TrustedRoots: roots, Logger: log, DNS01Solver: solver,
			ListenHost: "127.0.0.1", AltHTTPPort: t.port.port(), AltTLSALPNPort: t.port.port(),
			NewAccountFunc: contactOf(acme.Email),
		})
		c.Issuers = []certmagic.Issuer{issuer}
		return c, issuer
	}
	a.web.magic, a.issuer = with(nil, true)
	a.web.plain, _ = with(nil, false)
	if acme.DNS01.On() {
		var err error
		if a.solver, err = newSolver(acme.DNS01, t.cfg.Log); err != nil {
			return nil, err
		}
		a.dns.magic, _ = with(a.solver, true)
		a.dns.plain, _ = with(a.solver, false)
	}
	a.http = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}}
	return a, nil
}

// contactOf has a new account registered with the address of the settings, or with
// none. certmagic looks for one by itself where none is given. It finds "default",
// its word for no address, when it reads an account that another order is just
// writing, and would use that in this process for ever.
func contactOf(email string) func(context.Context, *certmagic.ACMEIssuer, acme.Account) (acme.Account, error) {
	return func(_ context.Context, _ *certmagic.ACMEIssuer, a acme.Account) (acme.Account, error) {
		a.Contact = nil
		if email != "" {
			a.Contact = []string{"mailto:" + email}
		}
		return a, nil
	}
}

// newCache makes the cache that certmagic insists on. Nothing is put into it:
// keepers hold the certificates and decide when they are renewed.
func newCache() *certmagic.Cache {
	return certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return nil, errors.New("not cached") },
		Logger:           zap.NewNop(),
	})
}

// load reads the stored certificate of a name; fs.ErrNotExist: there is none.
// errUnusable: what is stored is no certificate with its key.
func (a *authority) load(ctx context.Context, host string) (*leaf, error) {
	keys, issuer := certmagic.StorageKeys, a.issuer.IssuerKey()
	chain, err := a.storage.Load(ctx, keys.SiteCert(issuer, host))
	if err != nil {
		return nil, fmt.Errorf("read stored certificate: %w", err)
	}
	key, err := a.storage.Load(ctx, keys.SitePrivateKey(issuer, host))
	if err != nil {
		return nil, fmt.Errorf("read stored key: %w", err)
	}
	// certmagic orders nothing as long as all three files are there.
	if !a.storage.Exists(ctx, keys.SiteMeta(issuer, host)) {
		return nil, fmt.Errorf("read stored certificate: %w", fs.ErrNotExist)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnusable, err)
	}
	if err := pair.Leaf.VerifyHostname(host); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnusable, err)
	}
	return &leaf{pair}, nil
}

// discard removes what is stored for a name.
func (a *authority) discard(ctx context.Context, host string) error {
	return a.storage.Delete(ctx, certmagic.StorageKeys.CertsSitePrefix(a.issuer.IssuerKey(), host))
}

// obtain orders the first certificate of a name, unless one is stored by then.
func (a *authority) obtain(ctx context.Context, host string) (*leaf, error) {
	err := a.once(ctx, host, func(ctx context.Context, by orders) error { return by.magic.ObtainCertAsync(ctx, host) })
	if err != nil {
		return nil, err
	}
	return a.load(ctx, host)
}

// renew replaces a certificate, unless another agent did so meanwhile. plain:
// the order does not tell that it does.
func (a *authority) renew(ctx context.Context, host string, old *leaf, plain bool) (*leaf, error) {
	ctx, cancel := context.WithTimeout(ctx, a.patience(host))
	defer cancel()
	lock := "fairlead_renew_" + certmagic.StorageKeys.Safe(host)
	if err := a.storage.Lock(ctx, lock); err != nil {
		return nil, fmt.Errorf("wait for other agents over the same storage: %w", err)
	}
	defer func() { _ = a.storage.Unlock(context.WithoutCancel(ctx), lock) }() // it is stale after 10 s
	if stored, err := a.load(ctx, host); err == nil && !stored.same(old) {
		return stored, nil
	}
	err := a.once(ctx, host, func(ctx context.Context, by orders) error {
		magic := by.magic
		if plain {
			magic = by.plain
		}
		// The decision is made: the library's own idea of when is not asked.
		return magic.RenewCertAsync(ctx, host, true)
	})
	if err != nil {
		return nil, err
	}
	return a.load(ctx, host)
}

// try is one order. certmagic's asynchronous calls never ask at a terminal,
// which its synchronous ones do, but go on for 30 days; so the first failure
// ends the order's context.
type try struct {
	cancel context.CancelFunc
	err    error
}

type tryKey struct{}

// once lets order try one time, where it can succeed: what a name server
// would refuse costs no order.
func (a *authority) once(ctx context.Context, host string, order func(context.Context, orders) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.patience(host))
	defer cancel()
	by := a.web
	if base, wild := strings.CutPrefix(host, "*."); wild {
		if by = a.dns; a.solver == nil {
			return errors.New("wildcard names need acme.dns01")
		}
		if err := a.solver.Probe(ctx, base); err != nil {
			return err
		}
	}
	t := &try{cancel: cancel}
	err := order(context.WithValue(ctx, tryKey{}, t), by)
	if t.err != nil {
		return t.err
	}
	return err
}

// patience is how long one order of a name may take.
func (a *authority) patience(host string) time.Duration {
	if strings.HasPrefix(host, "*.") {
		return a.timeout
	}
	return orderTimeout
}

// newSolver makes what answers dns-01 challenges.
func newSolver(d model.DNS01, log *slog.Logger) (*dns01.Solver, error) {
	return dns01.New(dns01.Config{
		Server: d.Server, KeyFile: d.KeyFile, Zone: d.Zone, Command: d.Command,
		NameServers: d.NameServers, Propagation: d.Propagation, Log: log,
	})
}

// onEvent is called by the library in the goroutine of the order.
func onEvent(ctx context.Context, event string, data map[string]any) error {
	if t, ok := ctx.Value(tryKey{}).(*try); ok && event == "cert_failed" {
		t.err, _ = data["error"].(error)
		t.cancel()
	}
	return nil
}
