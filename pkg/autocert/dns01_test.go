// SPDX-License-Identifier: Apache-2.0

package autocert_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/autocert/bindtest"
	"github.com/fairlead-lb/fairlead/pkg/autocert/pebbletest"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

const zone = "fairlead.example"

// dnsWorld is an authority that asks a real name server.
type dnsWorld struct {
	ns    *bindtest.Server
	ca    *pebbletest.CA
	front *front
}

func newDNSWorld(t *testing.T, cfg bindtest.Config) dnsWorld {
	t.Helper()
	cfg.Zone = zone
	w := dnsWorld{ns: bindtest.New(t, cfg), front: newFront(t, true, true)}
	w.ca = pebbletest.New(t, pebbletest.Config{HTTPPort: port(w.front.http), TLSPort: port(w.front.tls), Resolver: w.ns.Addr.String()})
	return w
}

// freeState serves free names of one template, by number.
func (w dnsWorld) freeState(template string, n int) *model.State {
	s := state(w.ca)
	s.Settings.ACME.DNS01 = model.DNS01{
		Server: w.ns.Addr, KeyFile: w.ns.KeyFile, Propagation: 30 * time.Second, NameServers: []netip.AddrPort{w.ns.Addr},
	}
	for i := range n {
		s.Services = append(s.Services, &model.Service{
			Name:     model.ServiceName{Project: fmt.Sprintf("p%04d", i), User: "u"},
			TCPNames: []model.TCPName{{Host: fmt.Sprintf(template, i), Free: true, Kind: "POSTGRES", TLS: "terminate"}},
		})
	}
	return s
}

// A thousand free names are one label below one parent: one order, one
// certificate, and no other name is served with it. An own domain beside them
// has one of its own.
func TestA09A10OneWildcardForAThousandNames(t *testing.T) {
	t.Parallel()
	w := newDNSWorld(t, bindtest.Config{})
	dir := t.TempDir()
	target := newTarget(t, dir)
	w.front.serve(target)
	const services = 1000
	s := w.freeState("p%04d-u.db-eu."+zone, services)
	const wild, own = "*.db-eu." + zone, "own." + zone
	apply(t, target, s)
	c := await(t, target, wild, is(autocert.Valid))
	if len(c.Covers) != services || len(target.Status()) != 1 {
		t.Errorf("%d certificates, the first covers %d names; want 1 for %d", len(target.Status()), len(c.Covers), services)
	}
	if n := w.ca.Orders(); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
	roots := w.ca.Roots()
	for _, i := range []int{0, 500, services - 1} {
		must(t, w.front, fmt.Sprintf("p%04d-u.db-eu.%s", i, zone), roots)
	}
	for _, svc := range s.Services {
		if !target.Holds(svc.TCPNames[0].Host) {
			t.Fatalf("%s is not held", svc.TCPNames[0].Host)
		}
	}
	for name, covered := range map[string]bool{"nobody.db-eu." + zone: true, "db-eu." + zone: false, "a.p0000-u.db-eu." + zone: false} {
		refused(t, w.front, name, roots)
		if c := target.Covering(name); (c != nil) != covered || c != nil && c.Leaf.VerifyHostname(name) != nil {
			t.Errorf("covering %s: %v, want one: %t", name, c, covered)
		}
	}
	if left := w.ns.TXT("_acme-challenge.db-eu." + zone); len(left) > 0 {
		t.Errorf("records left behind: %q", left)
	}

	// Free HTTP names of another parent, and an own domain without a wildcard.
	for i, svc := range s.Services {
		svc.HTTP = []model.HTTPHost{{Host: fmt.Sprintf("p%04d-u.%s", i, zone), Free: true, TLS: true}}
	}
	s.Services[0].HTTP = append(s.Services[0].HTTP, model.HTTPHost{Host: own, TLS: true})
	apply(t, target, s)
	await(t, target, "*."+zone, is(autocert.Valid))
	await(t, target, own, is(autocert.Valid))
	if crt := must(t, w.front, own, roots); len(crt.DNSNames) != 1 || crt.DNSNames[0] != own {
		t.Errorf("the own domain is served with a certificate for %q", crt.DNSNames)
	}
	if crt := must(t, w.front, "p0007-u."+zone, roots); crt.DNSNames[0] != "*."+zone {
		t.Errorf("a free name is served with a certificate for %q", crt.DNSNames)
	}
	if n := w.ca.Issued(); n != 3 {
		t.Errorf("%d certificates were issued, want 3", n)
	}

	// A name more needs no order; another agent serves what is stored.
	s.Services[1].HTTP = append(s.Services[1].HTTP, model.HTTPHost{Host: "one-more." + zone, Free: true, TLS: true})
	orders := w.ca.Orders()
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	second := newTarget(t, dir)
	apply(t, second, s)
	await(t, second, wild, is(autocert.Valid))
	await(t, second, "*."+zone, is(autocert.Valid))
	if !second.Holds("one-more."+zone) || !second.Holds("p0999-u.db-eu."+zone) {
		t.Error("another agent over the same storage does not hold the names")
	}
	if n := w.ca.Orders(); n != orders {
		t.Errorf("%d orders, want the %d before", n, orders)
	}
}

// Names that were kept one by one are served all the time while the wildcard
// that replaces them is ordered, and the other way round.
func TestA09WildcardTakesOverWithoutALostHandshake(t *testing.T) {
	t.Parallel()
	w := newDNSWorld(t, bindtest.Config{})
	dir := t.TempDir()
	target := newTarget(t, dir)
	w.front.serve(target)
	with := w.freeState("p%d."+zone, 2)
	without := w.freeState("p%d."+zone, 2)
	without.Settings.ACME.DNS01 = model.DNS01{}
	apply(t, target, without)
	await(t, target, "p0."+zone, is(autocert.Valid))
	await(t, target, "p1."+zone, is(autocert.Valid))
	roots := w.ca.Roots()
	w.ns.Stop()
	apply(t, target, with)
	await(t, target, "*."+zone, is(autocert.Failed))
	must(t, w.front, "p0."+zone, roots)
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	// A restart in that time loses nothing either.
	f := newFront(t, false, true)
	second := newTarget(t, dir)
	f.serve(second)
	apply(t, second, with)
	must(t, f, "p1."+zone, roots)
	w.ns.Start()
	await(t, second, "*."+zone, is(autocert.Valid))
	if crt := must(t, f, "p1."+zone, roots); crt.DNSNames[0] != "*."+zone {
		t.Errorf("served with a certificate for %q, want the wildcard", crt.DNSNames)
	}
	apply(t, second, without)
	must(t, f, "p1."+zone, roots)
}

// What goes wrong at the name server is said in words, costs no order, and is
// tried again until it is mended. The secret is told to nobody.
func TestDNS01Failures(t *testing.T) {
	t.Parallel()
	const other = "VGhpcyBpcyBub3QgdGhlIHNlY3JldCB0aGF0IGl0IGhhcyE="
	tests := []struct {
		name   string
		server bindtest.Config
		breaks func(t *testing.T, w dnsWorld, d *model.DNS01)
		mends  func(t *testing.T, w dnsWorld, d *model.DNS01)
		want   []string
	}{
		{
			name:   "wrong secret",
			breaks: func(t *testing.T, w dnsWorld, d *model.DNS01) { w.ns.WriteKey(d.KeyFile, w.ns.KeyName, other) },
			mends:  func(t *testing.T, w dnsWorld, d *model.DNS01) { w.ns.WriteKey(d.KeyFile, w.ns.KeyName, w.ns.Secret) },
			want:   []string{"BADSIG", "keyFile"},
		},
		{
			name:   "unknown key",
			breaks: func(t *testing.T, w dnsWorld, d *model.DNS01) { w.ns.WriteKey(d.KeyFile, "nobody.", w.ns.Secret) },
			mends:  func(t *testing.T, w dnsWorld, d *model.DNS01) { w.ns.WriteKey(d.KeyFile, w.ns.KeyName, w.ns.Secret) },
			want:   []string{"BADKEY", "nobody."},
		},
		{
			name:   "no key file",
			breaks: func(t *testing.T, w dnsWorld, d *model.DNS01) { d.KeyFile = filepath.Join(t.TempDir(), "absent.key") },
			mends:  func(t *testing.T, w dnsWorld, d *model.DNS01) { w.ns.WriteKey(d.KeyFile, w.ns.KeyName, w.ns.Secret) },
			want:   []string{"acme.dns01.keyFile", "no such file"},
		},
		{
			name:   "key file is no key",
			breaks: func(t *testing.T, w dnsWorld, d *model.DNS01) { write(t, d.KeyFile, "secret = "+w.ns.Secret) },
			mends:  func(t *testing.T, w dnsWorld, d *model.DNS01) { w.ns.WriteKey(d.KeyFile, w.ns.KeyName, w.ns.Secret) },
			want:   []string{"acme.dns01.keyFile", "tsig-keygen"},
		},
		{
			name:   "refused",
			server: bindtest.Config{Updates: "update-policy { grant updater.fairlead. name other." + zone + ". TXT; };"},
			want:   []string{"refuses to update _acme-challenge." + zone, "update-policy", "updater.fairlead."},
		},
		{
			name:   "down",
			breaks: func(t *testing.T, w dnsWorld, d *model.DNS01) { w.ns.Stop() },
			mends:  func(t *testing.T, w dnsWorld, d *model.DNS01) { w.ns.Start() },
			want:   []string{"does not answer", "connection refused"},
		},
		{
			name:   "another zone",
			breaks: func(t *testing.T, w dnsWorld, d *model.DNS01) { d.Zone = "elsewhere.example" },
			mends:  func(t *testing.T, w dnsWorld, d *model.DNS01) { d.Zone = zone },
			want:   []string{"elsewhere.example", "NOTAUTH"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newDNSWorld(t, tt.server)
			said := &said{}
			target, err := autocert.New(autocert.Config{
				StateDir: t.TempDir(), RetryMin: 300 * time.Millisecond, RetryMax: 2 * time.Second,
				Log: slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: slog.LevelDebug})),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = target.Close() })
			s := w.freeState("p%d."+zone, 3)
			d := &s.Settings.ACME.DNS01
			d.KeyFile = filepath.Join(t.TempDir(), "update.key")
			w.ns.WriteKey(d.KeyFile, w.ns.KeyName, w.ns.Secret)
			if tt.breaks != nil {
				tt.breaks(t, w, d)
			}
			apply(t, target, s)
			c := await(t, target, "*."+zone, func(c autocert.Certificate) bool { return c.State == autocert.Failed && !c.NextTry.IsZero() })
			for _, want := range append(tt.want, "dns-01: ") {
				if !strings.Contains(c.Error, want) {
					t.Errorf("error %q, want %q in it", c.Error, want)
				}
			}
			if n := w.ca.Orders(); n != 0 {
				t.Errorf("%d orders, want none: it could not succeed", n)
			}
			if tt.mends != nil {
				tt.mends(t, w, d)
				apply(t, target, s)
				await(t, target, "*."+zone, is(autocert.Valid))
				if n := w.ca.Orders(); n != 1 {
					t.Errorf("%d orders, want 1", n)
				}
			}
			all := said.String() + fmt.Sprintf("%+v", target.Status())
			if strings.Contains(all, w.ns.Secret) || strings.Contains(all, other) {
				t.Error("the secret of the key was told")
			}
		})
	}
}

// The authority asks a secondary, which shows the record later: it is told to
// look only then. One that is later than the config allows is named.
func TestDNS01LatePropagation(t *testing.T) {
	t.Parallel()
	primary := bindtest.New(t, bindtest.Config{Zone: zone})
	secondary := bindtest.New(t, bindtest.Config{Zone: zone, Of: primary})
	w := dnsWorld{ns: primary, front: newFront(t, true, true)}
	w.ca = pebbletest.New(t, pebbletest.Config{Resolver: secondary.Addr.String()})
	target := newTarget(t, t.TempDir())
	w.front.serve(target)
	s := w.freeState("p%d."+zone, 2)
	d := &s.Settings.ACME.DNS01
	d.NameServers = []netip.AddrPort{primary.Addr, secondary.Addr}
	d.Propagation = time.Second
	apply(t, target, s)
	c := await(t, target, "*."+zone, is(autocert.Failed))
	for _, want := range []string{"after 1s", secondary.Addr.String(), "does not have it yet"} {
		if !strings.Contains(c.Error, want) {
			t.Errorf("error %q, want %q in it", c.Error, want)
		}
	}
	if strings.Contains(c.Error, primary.Addr.String()) {
		t.Errorf("error %q names the primary, which shows the record", c.Error)
	}
	later := w.freeState("p%d."+zone, 2)
	later.Settings.ACME.DNS01 = *d
	later.Settings.ACME.DNS01.Propagation = time.Minute
	apply(t, target, later)
	await(t, target, "*."+zone, func(c autocert.Certificate) bool {
		return strings.Contains(c.Awaiting, "_acme-challenge."+zone) && strings.Contains(c.Awaiting, secondary.Addr.String()+" does not have it yet")
	})
	secondary.Notify()
	await(t, target, "*."+zone, is(autocert.Valid))
	if strings.Contains(w.ca.Log(), "unauthorized") {
		t.Error("the authority was told to look before the record was there")
	}
}

// A program writes the records where no server takes updates.
func TestDNS01Command(t *testing.T) {
	t.Parallel()
	ns := bindtest.New(t, bindtest.Config{Zone: zone})
	w := dnsWorld{ns: ns, front: newFront(t, true, true)}
	w.ca = pebbletest.New(t, pebbletest.Config{Resolver: ns.Addr.String()})
	target := newTarget(t, t.TempDir())
	s := w.freeState("p%d."+zone, 2)
	dir := t.TempDir()
	script := filepath.Join(dir, "hook")
	write(t, script, "#!/bin/sh\necho \"$@\" >>"+dir+"/calls\n[ -e "+dir+"/works ] || { echo 'no such account'; exit 3; }\nexec \"$HOOK\" \"$@\"\n")
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Settings.ACME.DNS01 = model.DNS01{
		Command:     []string{"/usr/bin/env", "HOOK=" + os.Args[0], hookServer + "=" + ns.Addr.String(), hookKey + "=" + ns.KeyFile, script},
		NameServers: []netip.AddrPort{ns.Addr}, Propagation: 30 * time.Second,
	}
	apply(t, target, s)
	c := await(t, target, "*."+zone, is(autocert.Failed))
	for _, want := range []string{"dns-01: acme.dns01.command", "present", "exit status 3", "no such account"} {
		if !strings.Contains(c.Error, want) {
			t.Errorf("error %q, want %q in it", c.Error, want)
		}
	}
	write(t, filepath.Join(dir, "works"), "")
	await(t, target, "*."+zone, is(autocert.Valid))
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || !strings.Contains(string(calls), "cleanup _acme-challenge."+zone+". ") {
		t.Errorf("calls of the program:\n%s%v", calls, err)
	}
	if left := ns.TXT("_acme-challenge." + zone); len(left) > 0 {
		t.Errorf("records left behind: %q", left)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const hookServer, hookKey = "FAIRLEAD_AUTOCERT_HOOK", "FAIRLEAD_AUTOCERT_HOOK_KEY"

// hook is the program that the test's command ends in: it has the name server
// take what it is told.
func hook(verb, name, value string) error {
	server, err := netip.ParseAddrPort(os.Getenv(hookServer))
	if err != nil {
		return err
	}
	return bindtest.Update(server, os.Getenv(hookKey), zone, verb == "present", name, value)
}

// said keeps a log.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to the log.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String is all of it.
func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
