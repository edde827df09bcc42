// SPDX-License-Identifier: Apache-2.0

package domain

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// resolver is a real name server on loopback, over UDP and TCP.
type resolver struct {
	addr netip.AddrPort

	mu      sync.Mutex
	zone    map[string][]dns.RR // by lower-case name and type
	rcode   int                 // of every answer; 0: by the zone
	silent  bool
	long    bool // UDP answers are cut short
	asked   int
	another bool // it answers another question
}

func newResolver(t *testing.T) *resolver {
	t.Helper()
	r := &resolver{zone: map[string][]dns.RR{}}
	var pc net.PacketConn
	var l net.Listener
	for range 50 {
		var err error
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if pc, err = net.ListenPacket("udp", l.Addr().String()); err == nil {
			break
		}
		_ = l.Close()
	}
	if pc == nil {
		t.Fatal("no port that is free for UDP and TCP")
	}
	r.addr = netip.MustParseAddrPort(l.Addr().String())
	var wg sync.WaitGroup
	servers := []*dns.Server{{PacketConn: pc, Handler: r}, {Listener: l, Handler: r}}
	for _, s := range servers {
		begun := make(chan struct{})
		s.NotifyStartedFunc = func() { close(begun) }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-begun
	}
	t.Cleanup(func() {
		for _, s := range servers {
			_ = s.Shutdown()
		}
		wg.Wait()
	})
	return r
}

// ServeDNS answers one question.
func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.silent {
		return
	}
	m := new(dns.Msg).SetReply(q)
	m.Rcode = r.rcode
	if r.another {
		m.Question = []dns.Question{{Name: "other.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
	}
	name := strings.ToLower(q.Question[0].Name)
	m.Answer = append(m.Answer, r.zone[name+dns.TypeToString[q.Question[0].Qtype]]...)
	if len(m.Answer) == 0 && m.Rcode == 0 {
		known := false
		for key := range r.zone {
			known = known || strings.HasPrefix(key, name)
		}
		if !known {
			m.Rcode = dns.RcodeNameError
		}
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp && r.long {
		m.Answer, m.Truncated = nil, true
	}
	_ = w.WriteMsg(m)
}

// set replaces the records of a name and type.
func (r *resolver) set(t *testing.T, name, qtype string, records ...string) {
	t.Helper()
	var rrs []dns.RR
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.zone[name+qtype] = rrs
}

func (r *resolver) with(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

var web, other = model.ServiceName{Project: "shop", User: "web"}, model.ServiceName{Project: "shop", User: "other"}

func site(r *resolver) Site {
	tcp := []model.Port{{Service: 80, Container: 8080, Protocol: model.TCP}}
	s := &model.State{Generation: 1, Services: []*model.Service{
		{Name: other, Ports: tcp, HTTP: []model.HTTPHost{{Host: "taken.example.com"}}},
		{Name: model.ServiceName{Project: "shop", User: "udp"}, Ports: []model.Port{{Service: 53, Container: 53, Protocol: model.UDP}}},
		{Name: web, Ports: tcp},
	}}
	s.Settings.Domains = model.Domains{Resolver: r.addr, TXTName: "_fairlead.{host}"}
	return Site{State: s, Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8::10")}}
}

func newStore(t *testing.T, path string) *Store {
	t.Helper()
	s, err := New(Config{Path: path, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// served is the hosts a store publishes, through its source.
func served(t *testing.T, s *Store) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var hosts []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx, func(p source.Part) {
			for name, list := range p.Hosts {
				for _, h := range list {
					hosts = append(hosts, fmt.Sprintf("%s %s %t", h.Host, name, h.TLS))
				}
			}
			cancel()
		})
	}()
	<-done
	slices.Sort(hosts)
	return hosts
}

func record(t *testing.T, r Result, kind string) Record {
	t.Helper()
	for _, x := range r.Records {
		if x.Type == kind {
			return x
		}
	}
	t.Fatalf("no %s record in %+v", kind, r)
	return Record{}
}

const host = "shop.example.com"

// good sets the records as they are wanted.
func good(t *testing.T, r *resolver, d Domain) {
	t.Helper()
	r.set(t, host+".", "A", host+". 60 IN A 203.0.113.10")
	r.set(t, "_fairlead."+host+".", "TXT", fmt.Sprintf("_fairlead.%s. 60 IN TXT %q", host, d.Token))
}

func TestA18ConfirmNeedsEveryRecord(t *testing.T) {
	r := newResolver(t)
	path := filepath.Join(t.TempDir(), "domains.json")
	s := newStore(t, path)
	res, err := s.Add(site(r), "Shop.Example.com.", web)
	if err != nil {
		t.Fatal(err)
	}
	if got := record(t, res, "TXT"); got.Name != "_fairlead."+host || len(got.Want) != 1 || len(got.Want[0]) < 20 {
		t.Errorf("TXT record %+v, want a token at _fairlead.%s", got, host)
	}
	if got := record(t, res, "A"); got.Name != host || !slices.Equal(got.Want, []string{"203.0.113.10"}) {
		t.Errorf("A record %+v", got)
	}
	token := res.Domain.Token
	if again, err := s.Add(site(r), host, web); err != nil || again.Changed || again.Domain.Token != token {
		t.Errorf("added again: %+v, %v, want the same token", again, err)
	}

	// Nothing is there.
	res, err = s.Confirm(t.Context(), site(r), host)
	if err != nil || res.OK() || res.Changed || res.Asked != r.addr {
		t.Fatalf("confirm without records: %+v, %v", res, err)
	}
	for _, kind := range []string{"A", "TXT"} {
		if got := record(t, res, kind); got.OK || !strings.Contains(got.Note, "NXDOMAIN") {
			t.Errorf("%s record: %+v, want a note with NXDOMAIN", kind, got)
		}
	}
	if got := record(t, res, "AAAA"); !got.OK {
		t.Errorf("AAAA record: %+v, want one that need not be there", got)
	}

	// Wrong values: what was found is told.
	r.set(t, host+".", "A", host+". 60 IN A 192.0.2.99")
	r.set(t, host+".", "AAAA", host+". 60 IN AAAA 2001:db8::99")
	r.set(t, "_fairlead."+host+".", "TXT", "_fairlead."+host+`. 60 IN TXT "v=spf1 -all"`)
	if res, err = s.Confirm(t.Context(), site(r), host); err != nil || res.OK() {
		t.Fatalf("confirm with wrong records: %+v, %v", res, err)
	}
	for kind, value := range map[string]string{"A": "192.0.2.99", "AAAA": "2001:db8::99", "TXT": "v=spf1 -all"} {
		if got := record(t, res, kind); got.OK || !slices.Equal(got.Found, []string{value}) || got.Note == "" {
			t.Errorf("%s record: %+v, want %q found and a note", kind, got, value)
		}
	}
	if hosts := served(t, s); hosts != nil {
		t.Errorf("unconfirmed and served: %q", hosts)
	}

	// All but the token.
	good(t, r, Domain{Token: token + "x"})
	r.set(t, host+".", "AAAA")
	if res, err = s.Confirm(t.Context(), site(r), host); err != nil || res.OK() || record(t, res, "TXT").OK || !record(t, res, "A").OK {
		t.Fatalf("confirm with another token: %+v, %v", res, err)
	}
	good(t, r, Domain{Token: token})
	if res, err = s.Check(t.Context(), site(r), host); err != nil || !res.OK() || !res.Domain.Confirmed.IsZero() {
		t.Fatalf("check: %+v, %v, want all well and nothing bound", res, err)
	}
	if res, err = s.Confirm(t.Context(), site(r), host); err != nil || !res.OK() || !res.Changed {
		t.Fatalf("confirm: %+v, %v", res, err)
	}
	want := []string{host + " shop/web true"}
	if hosts := served(t, s); !slices.Equal(hosts, want) {
		t.Errorf("served %q, want %q", hosts, want)
	}
	// It stays so over a restart, and when the records go away.
	r.set(t, host+".", "A")
	s = newStore(t, path)
	if hosts := served(t, s); !slices.Equal(hosts, want) {
		t.Errorf("after a restart served %q, want %q", hosts, want)
	}
	if res, err := s.Confirm(t.Context(), site(r), host); err != nil || res.OK() || res.Domain.Confirmed.IsZero() {
		t.Errorf("confirmed again without records: %+v, %v, want it bound as before", res, err)
	}
}

func confirmed(t *testing.T, r *resolver, path string) *Store {
	t.Helper()
	s := newStore(t, path)
	res, err := s.Add(site(r), host, web)
	if err != nil {
		t.Fatal(err)
	}
	good(t, r, res.Domain)
	if res, err := s.Confirm(t.Context(), site(r), host); err != nil || !res.Changed {
		t.Fatalf("confirm: %+v, %v", res, err)
	}
	return s
}

func TestA17OffAndOnWithoutAnotherLook(t *testing.T) {
	r := newResolver(t)
	path := filepath.Join(t.TempDir(), "domains.json")
	s := confirmed(t, r, path)
	asked := 0
	r.with(func() { asked = r.asked })
	if res, err := s.Switch(host, false); err != nil || !res.Changed {
		t.Fatalf("off: %+v, %v", res, err)
	}
	if res, err := s.Switch(host, false); err != nil || res.Changed {
		t.Errorf("off again: %+v, %v", res, err)
	}
	if hosts := served(t, newStore(t, path)); hosts != nil {
		t.Errorf("off and served: %q", hosts)
	}
	s = newStore(t, path)
	if res, err := s.Switch(host, true); err != nil || !res.Changed {
		t.Fatalf("on: %+v, %v", res, err)
	}
	if hosts := served(t, s); len(hosts) != 1 {
		t.Errorf("on and served: %q", hosts)
	}
	r.with(func() {
		if r.asked != asked {
			t.Errorf("the resolver was asked %d times more, want none", r.asked-asked)
		}
	})
	if _, err := s.Add(site(r), "new.example.com", web); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Switch("new.example.com", true); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "not confirmed") {
		t.Errorf("on before it is confirmed: %v", err)
	}
}

func TestA19Removed(t *testing.T) {
	r := newResolver(t)
	path := filepath.Join(t.TempDir(), "domains.json")
	s := confirmed(t, r, path)
	token := s.List()[0].Token
	if _, err := s.Remove(host); err != nil {
		t.Fatal(err)
	}
	if hosts := served(t, s); hosts != nil || len(newStore(t, path).List()) != 0 {
		t.Errorf("removed and served: %q", hosts)
	}
	for name, err := range map[string]error{
		"remove": second(s.Remove(host)), "off": second(s.Switch(host, false)), "check": second(s.Check(t.Context(), site(r), host)),
	} {
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "fairlead domain add") {
			t.Errorf("%s of a domain that is not there: %v", name, err)
		}
	}
	// To have it again is to confirm it again, with another token.
	res, err := s.Add(site(r), host, web)
	if err != nil || res.Domain.Token == token || !res.Domain.Confirmed.IsZero() {
		t.Errorf("added again: %+v, %v", res, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestA11ConflictsNameTheFirst(t *testing.T) {
	r := newResolver(t)
	s := confirmed(t, r, filepath.Join(t.TempDir(), "domains.json"))
	for _, tt := range []struct {
		host    string
		service model.ServiceName
		kind    error
		want    string
	}{
		{host, other, ErrConflict, "bound to shop/web already"},
		{"taken.example.com", web, ErrConflict, "served by shop/other already"},
		{"taken.example.com", other, ErrConflict, "served by shop/other already"},
		{"x.example.com", model.ServiceName{Project: "no", User: "body"}, ErrUnknown, "no service no/body"},
		{"x.example.com", model.ServiceName{Project: "shop", User: "udp"}, nil, "no TCP port"},
		{"203.0.113.1", web, nil, "is an address"},
		{"localhost", web, nil, "no dot"},
		{"a b.example.com", web, nil, "want a name"},
		{"*.example.com", web, nil, "want a name"},
		{strings.Repeat("a", 64) + ".example.com", web, nil, "want a name"},
		{"", web, nil, "want a name"},
	} {
		_, err := s.Add(site(r), tt.host, tt.service)
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.kind != nil && !errors.Is(err, tt.kind) {
			t.Errorf("add %q for %s: %v, want %q", tt.host, tt.service, err, tt.want)
		}
	}
	// Taken by the config between add and confirm.
	res, err := s.Add(site(r), "late.example.com", web)
	if err != nil {
		t.Fatal(err)
	}
	r.set(t, "late.example.com.", "A", "late.example.com. 60 IN A 203.0.113.10")
	r.set(t, "_fairlead.late.example.com.", "TXT", fmt.Sprintf("_fairlead.late.example.com. 60 IN TXT %q", res.Domain.Token))
	st := site(r)
	st.State.Services[0].HTTP = append(st.State.Services[0].HTTP, model.HTTPHost{Host: "late.example.com"})
	if _, err := s.Confirm(t.Context(), st, "late.example.com"); !errors.Is(err, ErrConflict) {
		t.Errorf("confirm of a host the config has by now: %v", err)
	}
	// Other alphabets.
	if res, err := s.Add(site(r), "Магазин.рф", web); err != nil || res.Domain.Host != "xn--80aairftm.xn--p1ai" {
		t.Errorf("add of Магазин.рф: %+v, %v", res, err)
	}
}

func TestA18EveryKindOfAnswer(t *testing.T) {
	r := newResolver(t)
	s := newStore(t, filepath.Join(t.TempDir(), "domains.json"))
	res, err := s.Add(site(r), host, web)
	if err != nil {
		t.Fatal(err)
	}
	d := res.Domain
	check := func() Result {
		t.Helper()
		res, err := s.Check(t.Context(), site(r), host)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	for name, tt := range map[string]struct {
		prepare func()
		kind    string
		ok      bool
		note    string
	}{
		"server failure": {func() { r.rcode = dns.RcodeServerFailure }, "A", false, "SERVFAIL"},
		"refused":        {func() { r.rcode = dns.RcodeRefused }, "TXT", false, "REFUSED"},
		"silence":        {func() { r.silent = true }, "A", false, "no answer within"},
		"another answer": {func() { r.another = true }, "A", false, "another question"},
		"long answers":   {func() { r.long = true }, "TXT", true, ""},
		"plain":          {func() {}, "A", true, ""},
	} {
		good(t, r, d)
		r.with(tt.prepare)
		got := check()
		r.with(func() { r.rcode, r.silent, r.another, r.long = 0, false, false, false })
		if x := record(t, got, tt.kind); x.OK != tt.ok || !strings.Contains(x.Note, tt.note) {
			t.Errorf("%s: %+v, want ok %t and %q in the note", name, x, tt.ok, tt.note)
		}
	}
	// Along aliases, and among other values.
	r.set(t, host+".", "A",
		host+". 60 IN CNAME a.cdn.example.", "a.cdn.example. 60 IN CNAME b.cdn.example.",
		"b.cdn.example. 60 IN A 203.0.113.10", "b.cdn.example. 60 IN A 192.0.2.9", "c.cdn.example. 60 IN A 192.0.2.8")
	r.set(t, "_fairlead."+host+".", "TXT",
		"_fairlead."+host+`. 60 IN TXT "another"`,
		fmt.Sprintf(`_fairlead.%s. 60 IN TXT %q %q`, host, d.Token[:7], d.Token[7:]))
	got := check()
	if x := record(t, got, "A"); !x.OK || !slices.Equal(x.Found, []string{"203.0.113.10", "192.0.2.9"}) ||
		!strings.Contains(x.Note, "192.0.2.9") || !strings.Contains(x.Note, "alias of b.cdn.example") {
		t.Errorf("alias: %+v", x)
	}
	if x := record(t, got, "TXT"); !x.OK {
		t.Errorf("token in two strings: %+v", x)
	}
	// A ring of aliases ends.
	r.set(t, host+".", "A", host+". 60 IN CNAME a.cdn.example.", "a.cdn.example. 60 IN CNAME "+host+".")
	if x := record(t, check(), "A"); x.OK {
		t.Errorf("ring of aliases: %+v", x)
	}
	// Nobody listens there.
	st := site(r)
	st.State.Settings.Domains.Resolver = netip.MustParseAddrPort("127.0.0.1:1")
	if res, err := s.Check(t.Context(), st, host); err != nil || record(t, res, "A").OK || !strings.Contains(record(t, res, "A").Note, "127.0.0.1:1") {
		t.Errorf("no resolver: %+v, %v", res, err)
	}
	// A node without IPv4.
	st = site(r)
	st.Addresses = st.Addresses[1:]
	r.set(t, host+".", "A")
	r.set(t, host+".", "AAAA", host+". 60 IN AAAA 2001:db8::10")
	if res, err := s.Check(t.Context(), st, host); err != nil || !res.OK() {
		t.Errorf("IPv6 only: %+v, %v", res, err)
	}
}

func TestFileThatCannotBeReadOrWritten(t *testing.T) {
	r := newResolver(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "domains.json")
	for name, text := range map[string]string{
		"no JSON": "{", "other version": `{"version":2}`,
		"twice":    `{"version":1,"domains":[{"host":"a.b","service":"p/u","token":"t"},{"host":"a.b","service":"p/u","token":"t"}]}`,
		"bad host": `{"version":1,"domains":[{"host":"a b","service":"p/u","token":"t"}]}`,
		"no token": `{"version":1,"domains":[{"host":"a.b","service":"p/u"}]}`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := newStore(t, path)
		if len(s.List()) != 0 {
			t.Errorf("%s: %+v", name, s.List())
		}
		if kept, err := os.ReadFile(path + ".invalid"); err != nil || string(kept) != text {
			t.Errorf("%s: moved aside: %q, %v", name, kept, err)
		}
	}
	// What cannot be kept does not take effect.
	s := confirmed(t, r, path)
	s.cfg.Path = filepath.Join(dir, "gone", "domains.json")
	if _, err := s.Remove(host); err == nil {
		t.Error("removed without being able to keep it")
	}
	if hosts := served(t, s); len(hosts) != 1 {
		t.Errorf("served %q, want it as before", hosts)
	}
}

func TestTwoAtOnce(t *testing.T) {
	r := newResolver(t)
	s := newStore(t, filepath.Join(t.TempDir(), "domains.json"))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, _ = s.Add(site(r), fmt.Sprintf("h%d.example.com", i%5), web)
			_, _ = s.Remove(fmt.Sprintf("h%d.example.com", (i+1)%5))
		})
	}
	wg.Wait()
	if _, err := decode(must(t, s.cfg.Path)); err != nil {
		t.Errorf("the file after it: %v", err)
	}
}

func must(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func FuzzRead(f *testing.F) {
	m := new(dns.Msg).SetQuestion("shop.example.com.", dns.TypeA)
	rr, _ := dns.NewRR("shop.example.com. 60 IN A 203.0.113.10")
	m.Answer = []dns.RR{rr}
	seed, err := m.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := new(dns.Msg)
		if m.Unpack(wire) != nil {
			return
		}
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
			if a := read(m, "shop.example.com", qtype); len(a.values) > mostValues || len(a.values) == 0 && a.none == "" {
				t.Errorf("%+v of %v", a, m)
			}
		}
	})
}
