// SPDX-License-Identifier: Apache-2.0

package autocert_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/autocert/pebbletest"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/goleak"
)

// patience is how long anything may take on a busy machine.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if path := os.Getenv(nodeConfig); path != "" {
		os.Exit(node(path))
	}
	if os.Getenv(hookServer) != "" {
		if err := hook(os.Args[1], os.Args[2], os.Args[3]); err != nil {
			slog.Error("hook", "error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Tests wait for authorities most of the time, not for a processor.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		slog.Error("set parallelism", "error", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m,
		// certmagic's: one for each authority, for good; one for each lock, for 5 s after it.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
		// Idle connections of its client, which it does not hand out.
		goleak.IgnoreAnyFunction("net/http.(*http2clientConnReadLoop).run"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
	)
}

// front is port 80 and 443 of a test, for whatever target stands behind it.
type front struct {
	http, tls net.Listener // nil: closed
}

func newFront(t *testing.T, http, https bool) *front {
	t.Helper()
	f := &front{}
	listen := func(on bool) net.Listener {
		if !on {
			return nil
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	f.http, f.tls = listen(http), listen(https)
	return f
}

func port(l net.Listener) int {
	if l == nil {
		return 0
	}
	return l.Addr().(*net.TCPAddr).Port
}

// serve puts a target behind the front, in place of the one before.
func (f *front) serve(target *autocert.Target) {
	if f.http != nil {
		srv := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !target.HTTPChallenge(w, r) {
				http.Error(w, "no challenge", http.StatusTeapot)
			}
		})}
		srv.SetKeepAlivesEnabled(false)
		go func() { _ = srv.Serve(f.http) }()
	}
	if f.tls != nil {
		l := tls.NewListener(f.tls, target.TLSConfig())
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(patience))
					if c.(*tls.Conn).Handshake() == nil {
						_, _ = io.Copy(c, c)
					}
				}()
			}
		}()
	}
}

// handshake is the certificate the front shows for a name.
func (f *front) handshake(host string, roots *x509.CertPool) (*x509.Certificate, error) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", f.tls.Addr().String(), &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

func newTarget(t *testing.T, dir string) *autocert.Target {
	t.Helper()
	level := slog.LevelInfo
	if os.Getenv("FAIRLEAD_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	target, err := autocert.New(autocert.Config{
		StateDir: dir, RetryMin: 500 * time.Millisecond, RetryMax: 2 * time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	return target
}

// state serves the names with TLS.
func state(ca *pebbletest.CA, hosts ...string) *model.State {
	s := &model.State{Settings: model.Settings{ACME: model.ACME{Directory: ca.Directory, CAFile: ca.CAFile}}}
	for _, h := range hosts {
		s.Services = append(s.Services, &model.Service{
			Name: model.ServiceName{Project: "p", User: h}, HTTP: []model.HTTPHost{{Host: h, TLS: true}},
		})
	}
	return s
}

func apply(t *testing.T, target *autocert.Target, s *model.State) {
	t.Helper()
	if err := target.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// await waits for a status of a name that is as wanted.
func await(t *testing.T, target *autocert.Target, host string, ok func(autocert.Certificate) bool) autocert.Certificate {
	t.Helper()
	var last autocert.Certificate
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for _, c := range target.Status() {
			if c.Host != host {
				continue
			}
			if last = c; ok(c) {
				return c
			}
		}
	}
	t.Fatalf("status of %s is not as wanted after %s: %+v", host, patience, last)
	return last
}

func is(s autocert.State) func(autocert.Certificate) bool {
	return func(c autocert.Certificate) bool { return c.State == s }
}

func must(t *testing.T, f *front, host string, roots *x509.CertPool) *x509.Certificate {
	t.Helper()
	c, err := f.handshake(host, roots)
	if err != nil {
		t.Fatalf("handshake for %s: %v", host, err)
	}
	return c
}

// refused checks that a name is answered with alert 112.
func refused(t *testing.T, f *front, host string, roots *x509.CertPool) {
	t.Helper()
	if _, err := f.handshake(host, roots); err == nil || !strings.Contains(err.Error(), "remote error: tls: unrecognized name") {
		t.Errorf("handshake for %q: got %v, want alert 112, unrecognized_name", host, err)
	}
}

func TestA15CertificateByHTTP01(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, false)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http)})
	dir := t.TempDir()
	target := newTarget(t, dir)
	f.serve(target)
	apply(t, target, state(ca, "shop.http01.example", "www.http01.example"))
	for _, host := range []string{"shop.http01.example", "www.http01.example"} {
		c := await(t, target, host, func(c autocert.Certificate) bool { return c.State == autocert.Valid && !c.NextTry.IsZero() })
		if c.Error != "" || c.Awaiting != "" || c.Issuer == "" || !c.NotAfter.After(time.Now()) || !c.NextTry.Before(c.NotAfter) {
			t.Errorf("status: %+v, want a clean one with issuer, dates and the time of renewal", c)
		}
	}
	if n := ca.Issued(); n != 2 {
		t.Errorf("%d certificates were issued, want 2", n)
	}
	// Keys are nobody else's.
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
			return nil
		}
		if fi, err := d.Info(); err == nil && !d.IsDir() && filepath.Ext(path) == ".key" && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, fi.Mode())
		}
		return nil
	})
	// The same state again orders nothing. (The first may have taken two orders
	// a name: the other challenge was tried first, which nobody answers here.)
	orders := ca.Orders()
	apply(t, target, state(ca, "shop.http01.example", "www.http01.example"))
	await(t, target, "shop.http01.example", is(autocert.Valid))
	if n := ca.Orders(); n != orders {
		t.Errorf("%d orders, want the %d before", n, orders)
	}
}

// Without acme.email an account is registered without one, also when another agent,
// or another order of this one, is just writing the account that both use.
func TestAccountHalfWritten(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, false)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http)})
	dir := t.TempDir()
	st := state(ca, "shop.half.example")
	issuer := (&certmagic.ACMEIssuer{CA: st.Settings.ACME.Directory}).IssuerKey()
	if err := os.MkdirAll(filepath.Join(dir, "acme", certmagic.StorageKeys.Safe(issuer), "users", "default"), 0o700); err != nil {
		t.Fatal(err)
	}
	target := newTarget(t, dir)
	f.serve(target)
	apply(t, target, st)
	await(t, target, "shop.half.example", is(autocert.Valid))
}

func TestA15CertificateByTLSALPN01(t *testing.T) {
	t.Parallel()
	f := newFront(t, false, true)
	ca := pebbletest.New(t, pebbletest.Config{TLSPort: port(f.tls)})
	target := newTarget(t, t.TempDir())
	f.serve(target)
	const host = "shop.alpn01.example"
	refused(t, f, host, nil)
	s := state(ca, host)
	s.Services[0].HTTP = nil
	s.Services[0].TCPNames = []model.TCPName{{Host: host, Kind: "POSTGRES", TLS: "terminate"}}
	apply(t, target, s)
	await(t, target, host, is(autocert.Valid))
	roots := ca.Roots()
	c := must(t, f, host, roots)
	if err := c.VerifyHostname(host); err != nil {
		t.Error(err)
	}
	must(t, f, "SHOP.alpn01.EXAMPLE", roots)
	refused(t, f, "other.alpn01.example", roots)
	if strings.Contains(ca.Log(), "There are now 0") || ca.Issued() != 1 {
		t.Errorf("%d issued, want 1", ca.Issued())
	}
}

// The authority has a certificate renewed early; the agent that asks is a new
// one, which serves what is stored before it asks anybody.
func TestA15RenewalWithoutALostHandshake(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	dir := t.TempDir()
	const host = "shop.renewal.example"
	first := newTarget(t, dir)
	f.serve(first)
	apply(t, first, state(ca, host))
	await(t, first, host, is(autocert.Valid))
	roots := ca.Roots()
	old := must(t, f, host, roots)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(2 * time.Second)
	ca.Advise(old, soon, soon.Add(time.Second))

	g := newFront(t, false, true)
	second := newTarget(t, dir)
	g.serve(second)
	apply(t, second, state(ca, host))
	await(t, second, host, is(autocert.Valid))
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		now := must(t, g, host, roots)
		if now.SerialNumber.Cmp(old.SerialNumber) != 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not renewed after %s: %+v", patience, second.Status())
		}
	}
	if time.Now().Before(soon) {
		t.Error("renewed before the window began")
	}
	if !strings.Contains(ca.Log(), "is a replacement of") {
		t.Error("the order did not name the certificate it replaces (RFC 9773 section 5)")
	}
	// It is served before the authority is asked when to renew it.
	await(t, second, host, func(c autocert.Certificate) bool { return c.NextTry.After(time.Now().Add(50 * time.Minute)) })
	if n := ca.Issued(); n != 2 {
		t.Errorf("%d certificates were issued, want 2", n)
	}
}

// A certificate that ended while its authority was away is served until there
// is a better one; the authority comes back without a memory of the account.
func TestA15ExpiredIsServedUntilItIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls), Validity: 10 * time.Second})
	dir := t.TempDir()
	const host = "shop.expired.example"
	first := newTarget(t, dir)
	f.serve(first)
	apply(t, first, state(ca, host))
	await(t, first, host, is(autocert.Valid))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	ca.Stop()
	second := newTarget(t, dir)
	apply(t, second, state(ca, host))
	c := await(t, second, host, func(c autocert.Certificate) bool { return c.State == autocert.Expired && c.Error != "" })
	if c.NextTry.IsZero() || !strings.Contains(c.Error, "connection refused") {
		t.Errorf("status %+v, want the reason and the next try", c)
	}
	if pair, err := second.GetCertificate(&tls.ClientHelloInfo{ServerName: host}); err != nil || !pair.Leaf.NotAfter.Equal(c.NotAfter) {
		t.Errorf("served: %v, %v", pair, err)
	}
	ca.Start()
	await(t, second, host, func(now autocert.Certificate) bool {
		return now.State == autocert.Valid && now.NotAfter.After(c.NotAfter)
	})
}

func TestA15RevokedIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	dir := t.TempDir()
	const host = "shop.revoked.example"
	first := newTarget(t, dir)
	f.serve(first)
	apply(t, first, state(ca, host))
	await(t, first, host, is(autocert.Valid))
	var revoked *x509.Certificate
	{
		pair, err := first.GetCertificate(&tls.ClientHelloInfo{ServerName: host})
		if err != nil {
			t.Fatal(err)
		}
		revoked = pair.Leaf
		client := &acme.Client{Directory: ca.Directory, HTTPClient: ca.Client()}
		if err := client.RevokeCertificate(t.Context(), acme.Account{}, revoked, pair.PrivateKey.(*ecdsa.PrivateKey), acme.ReasonUnspecified); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	g := newFront(t, false, true)
	second := newTarget(t, dir)
	g.serve(second)
	// Challenges still arrive at the first front, whose target is closed: it
	// answers from the storage.
	apply(t, second, state(ca, host))
	roots := ca.Roots()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if c, err := g.handshake(host, roots); err == nil && c.SerialNumber.Cmp(revoked.SerialNumber) != 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the revoked certificate is not replaced: %+v", second.Status())
		}
	}
}

func TestA15AuthorityDownThenUp(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls), Stopped: true})
	target := newTarget(t, t.TempDir())
	f.serve(target)
	const host = "shop.down.example"
	begun := time.Now()
	apply(t, target, state(ca, host))
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("Apply took %s: it must not wait for the authority", took)
	}
	c := await(t, target, host, is(autocert.Failed))
	if !strings.Contains(c.Error, "connection refused") {
		t.Errorf("error %q, want one that says connection refused", c.Error)
	}
	refused(t, f, host, nil)
	if target.Holds(host) {
		t.Error("held before it is there")
	}
	ca.Start()
	await(t, target, host, is(autocert.Valid))
	if !target.Holds(host) || !target.Holds("SHOP.down.example.") || target.Holds("other.down.example") {
		t.Error("want the name held that has a certificate, and no other")
	}
	must(t, f, host, ca.Roots())

	// A challenge that fails is told in the authority's words.
	const lost = "lost.down.example"
	_ = f.http.Close()
	_ = f.tls.Close()
	apply(t, target, state(ca, host, lost))
	c = await(t, target, lost, is(autocert.Failed))
	if !strings.HasPrefix(c.Error, "the authority says ") || c.NextTry.IsZero() {
		t.Errorf("status %+v, want the authority's words and the next try", c)
	}
	await(t, target, host, is(autocert.Valid))
}

func TestA17A19NameWithdrawnAndBack(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	target := newTarget(t, t.TempDir())
	f.serve(target)
	const stays, goes = "stays.withdrawn.example", "goes.withdrawn.example"
	apply(t, target, state(ca, stays, goes))
	await(t, target, stays, is(autocert.Valid))
	await(t, target, goes, is(autocert.Valid))
	roots := ca.Roots()
	serial := must(t, f, goes, roots).SerialNumber

	apply(t, target, state(ca, stays))
	refused(t, f, goes, roots)
	if target.Holds(goes) || len(target.Status()) != 1 {
		t.Errorf("%s is still held: %+v", goes, target.Status())
	}
	must(t, f, stays, roots)

	// Switched on again: the same certificate, without another order.
	apply(t, target, state(ca, stays, goes))
	await(t, target, goes, is(autocert.Valid))
	if again := must(t, f, goes, roots).SerialNumber; again.Cmp(serial) != 0 {
		t.Error("another certificate was ordered for a name that came back")
	}
	if n := ca.Orders(); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
}

func TestUnservedNamesAreNeverOrdered(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	target := newTarget(t, t.TempDir())
	f.serve(target)
	const host = "shop.unserved.example"
	s := state(ca, host, "*.wild.example")
	s.Services[0].HTTP = append(s.Services[0].HTTP, model.HTTPHost{Host: "plain.unserved.example"})
	s.Services[0].TCPNames = []model.TCPName{{Host: "db.unserved.example", Kind: "REDIS", TLS: "passthrough"}}
	apply(t, target, s)
	await(t, target, host, is(autocert.Valid))
	await(t, target, "*.wild.example", is(autocert.Refused))
	roots := ca.Roots()
	for _, name := range []string{"evil.unserved.example", "plain.unserved.example", "db.unserved.example", "a.wild.example", "../../etc"} {
		if name != "../../etc" {
			refused(t, f, name, roots)
		}
		req, err := http.NewRequest(http.MethodGet, "http://"+f.http.Addr().String()+"/.well-known/acme-challenge/token", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = name
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusTeapot {
			t.Errorf("a challenge for %s was answered with %s", name, resp.Status)
		}
	}
	if n := ca.Orders(); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
}

func TestStoredCertificateIsUnusable(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	dir := t.TempDir()
	const host = "shop.unusable.example"
	first := newTarget(t, dir)
	f.serve(first)
	apply(t, first, state(ca, host))
	await(t, first, host, is(autocert.Valid))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "certificates", "*", host, host+".crt"))
	if err != nil || len(found) != 1 {
		t.Fatalf("stored certificates: %q, %v, want one", found, err)
	}
	if err := os.WriteFile(found[0], []byte("power was lost here"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := newTarget(t, dir)
	apply(t, second, state(ca, host)) // challenges are answered from the storage
	await(t, second, host, is(autocert.Valid))
	if n := ca.Issued(); n != 2 {
		t.Errorf("%d certificates were issued, want 2", n)
	}
}

func TestBadSettingsKeepWhatIsServed(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	target := newTarget(t, t.TempDir())
	f.serve(target)
	const host = "shop.settings.example"
	apply(t, target, state(ca, host))
	await(t, target, host, is(autocert.Valid))
	bad := state(ca, host)
	bad.Settings.ACME.CAFile = filepath.Join(t.TempDir(), "missing.pem")
	if err := target.Apply(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "acme.caFile") {
		t.Errorf("error %v, want one about acme.caFile", err)
	}
	must(t, f, host, ca.Roots())

	// Another authority: the old certificate serves until the new one is there.
	other := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	apply(t, target, state(other, host))
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := f.handshake(host, other.Roots()); err == nil {
			break
		}
		must2(t, f, host, ca.Roots(), other.Roots())
		if time.Now().After(deadline) {
			t.Fatalf("no certificate of the other authority: %+v", target.Status())
		}
	}
}

// must2 wants a certificate of either authority.
func must2(t *testing.T, f *front, host string, a, b *x509.CertPool) {
	t.Helper()
	if _, err := f.handshake(host, a); err != nil {
		if _, err := f.handshake(host, b); err != nil {
			t.Fatalf("handshake for %s: %v", host, err)
		}
	}
}

// Two agents in processes of their own share a storage and begin at once: one
// of them orders, and the challenge meets the other one as often as not.
func TestTwoAgentsOneStorageOneOrder(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	const host = "shop.agents.example"
	dir := t.TempDir()
	var serials []string
	type result struct {
		serial string
		err    error
	}
	results := make(chan result)
	for range 2 {
		cfg := filepath.Join(t.TempDir(), "node.json")
		data, err := json.Marshal(nodeSettings{Dir: dir, Directory: ca.Directory, CAFile: ca.CAFile, Host: host})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(cfg, data, 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), nodeConfig+"="+cfg)
			out, err := cmd.Output()
			results <- result{strings.TrimSpace(string(out)), err}
		}()
	}
	// Neither of them is behind the front: a third one answers for both.
	third := newTarget(t, dir)
	f.serve(third)
	apply(t, third, state(ca, host))
	for range 2 {
		r := <-results
		if r.err != nil {
			t.Errorf("agent: %v", r.err)
		}
		serials = append(serials, r.serial)
	}
	await(t, third, host, is(autocert.Valid))
	serials = append(serials, must(t, f, host, ca.Roots()).SerialNumber.String())
	for _, s := range serials {
		if s == "" || s != serials[0] {
			t.Errorf("agents serve the certificates %q, want one", serials)
			break
		}
	}
	if n := ca.Orders(); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
}

// An agent that is killed in the middle of an order leaves its lock; another
// one takes it when it is stale.
func TestKilledAgentHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	f := newFront(t, true, true)
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: port(f.http), TLSPort: port(f.tls)})
	const host = "shop.killed.example"
	dir := t.TempDir()
	cfg := filepath.Join(t.TempDir(), "node.json")
	data, err := json.Marshal(nodeSettings{Dir: dir, Directory: ca.Directory, CAFile: ca.CAFile, Host: host})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg, data, 0o600); err != nil {
		t.Fatal(err)
	}
	// Nobody accepts on the front yet, so the order goes on until it is killed.
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeConfig+"="+cfg)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ca.Orders() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the agent ordered nothing")
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	locks, err := filepath.Glob(filepath.Join(dir, "locks", "*"))
	if err != nil || len(locks) == 0 {
		t.Fatalf("locks that the killed agent left: %q, %v", locks, err)
	}
	target := newTarget(t, dir)
	f.serve(target)
	apply(t, target, state(ca, host))
	await(t, target, host, is(autocert.Valid))
	must(t, f, host, ca.Roots())
}

const nodeConfig = "FAIRLEAD_AUTOCERT_NODE"

type nodeSettings struct{ Dir, Directory, CAFile, Host string }

// node is an agent in a process of its own, which prints the serial of the
// certificate it came to hold.
func node(path string) int {
	data, err := os.ReadFile(path)
	var n nodeSettings
	if err == nil {
		err = json.Unmarshal(data, &n)
	}
	if err != nil {
		slog.Error("read node's settings", "error", err)
		return 1
	}
	target, err := autocert.New(autocert.Config{StateDir: n.Dir})
	if err != nil {
		slog.Error("make target", "error", err)
		return 1
	}
	defer target.Close()
	s := state(&pebbletest.CA{Directory: n.Directory, CAFile: n.CAFile}, n.Host)
	if err := target.Apply(context.Background(), s); err != nil {
		slog.Error("apply", "error", err)
		return 1
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := target.GetCertificate(&tls.ClientHelloInfo{ServerName: n.Host}); err == nil {
			_, _ = os.Stdout.WriteString(c.Leaf.SerialNumber.String() + "\n")
			return 0
		}
	}
	slog.Error("no certificate", "status", target.Status())
	return 1
}
