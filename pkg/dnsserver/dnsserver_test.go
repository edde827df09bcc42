// SPDX-License-Identifier: Apache-2.0

package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstream is a real name server on loopback.
type upstream struct {
	addr netip.AddrPort

	mu     sync.Mutex
	answer func(q *dns.Msg, udp bool) *dns.Msg // nil result: silence
	asked  []string
}

func newUpstream(t *testing.T, answer func(q *dns.Msg, udp bool) *dns.Msg) *upstream {
	t.Helper()
	u := &upstream{answer: answer}
	l, pc := freePair(t)
	u.addr = netip.MustParseAddrPort(l.Addr().String())
	var wg sync.WaitGroup
	servers := []*dns.Server{{PacketConn: pc, Handler: u}, {Listener: l, Handler: u}}
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
	return u
}

// ServeDNS answers one question.
func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	u.mu.Lock()
	u.asked = append(u.asked, q.Question[0].Name)
	answer := u.answer
	u.mu.Unlock()
	if m := answer(q, udp); m != nil {
		_ = w.WriteMsg(m)
	}
}

func (u *upstream) questions() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.asked)
}

func freePair(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if pc, err := net.ListenPacket("udp", l.Addr().String()); err == nil {
			return l, pc
		}
		_ = l.Close()
	}
	t.Fatal("no port that is free for UDP and TCP")
	return nil, nil
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, pc := freePair(t)
	defer l.Close()
	defer pc.Close()
	return l.Addr().String()
}

// echoes answers A of every name with 192.0.2.1.
func echoes(q *dns.Msg, _ bool) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1),
		}}
	}
	return m
}

const internal = "fairlead-test-run-user"

func state(listen string, upstreams ...netip.AddrPort) *model.State {
	s := &model.State{Generation: 1, Services: []*model.Service{
		{Name: model.ServiceName{Project: "test", User: "user"}, Internal: internal, VIP4: netip.MustParseAddr("198.18.0.10"), VIP6: netip.MustParseAddr("fd00:198:18::a")},
		{Name: model.ServiceName{Project: "test", User: "v4"}, Internal: "only4.internal.example", VIP4: netip.MustParseAddr("198.18.0.11")},
	}}
	s.Settings.Listen.DNS = listen
	s.Settings.DNS.Upstream = upstreams
	s.Settings.Network = model.Network{
		Services: netip.MustParsePrefix("198.18.0.0/16"), Services6: netip.MustParsePrefix("fd00:198:18::/112"),
		Workloads: netip.MustParsePrefix("10.213.0.0/16"),
	}
	return s
}

func start(t *testing.T, cfg Config, s *model.State) *Target {
	t.Helper()
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(cfg.ResolvConf, []byte("search corp.example lab.example\nnameserver 127.0.0.1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	target := New(cfg)
	t.Cleanup(func() { _ = target.Close() })
	if err := target.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return target
}

// ask asks a server and returns its answer, records sorted as text.
func ask(t *testing.T, server, network string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 20 * time.Second, UDPSize: dns.MaxMsgSize}
	m, _, err := c.Exchange(q, server)
	if err != nil {
		t.Fatalf("ask %s by %s for %s: %v", server, network, q.Question[0].Name, err)
	}
	return m
}

func question(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func values(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		switch v := rr.(type) {
		case *dns.A:
			out = append(out, v.A.String())
		case *dns.AAAA:
			out = append(out, v.AAAA.String())
		case *dns.PTR:
			out = append(out, v.Ptr)
		default:
			out = append(out, rr.String())
		}
	}
	return strings.Join(out, " ")
}

func TestA07InternalNames(t *testing.T) {
	u := newUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeNameError) })
	target := start(t, Config{}, state(freeAddress(t), u.addr))
	at := target.Addr().String()
	for _, network := range []string{"udp", "tcp"} {
		for _, tt := range []struct {
			name  string
			qtype uint16
			want  string
			rcode int
			soa   bool
		}{
			{internal + ".", dns.TypeA, "198.18.0.10", 0, false},
			{internal + ".", dns.TypeAAAA, "fd00:198:18::a", 0, false},
			{"FairLead-Test-Run-USER.", dns.TypeA, "198.18.0.10", 0, false},
			{internal + ".corp.example.", dns.TypeA, "198.18.0.10", 0, false},
			{internal + ".LAB.example.", dns.TypeAAAA, "fd00:198:18::a", 0, false},
			{"only4.internal.example.", dns.TypeA, "198.18.0.11", 0, false},
			{"only4.internal.example.", dns.TypeAAAA, "", 0, true}, // NODATA
			{internal + ".", dns.TypeMX, "", 0, true},
			{internal + ".", dns.TypeANY, "198.18.0.10 fd00:198:18::a", 0, false},
			{"10.0.18.198.in-addr.arpa.", dns.TypePTR, internal + ".", 0, false},
			{"a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.0.0.8.9.1.0.0.0.d.f.ip6.arpa.", dns.TypePTR, internal + ".", 0, false},
			{"99.0.18.198.in-addr.arpa.", dns.TypePTR, "", dns.RcodeNameError, true},
			{"10.0.18.198.in-addr.arpa.", dns.TypeTXT, "", 0, true},
		} {
			m := ask(t, at, network, question(tt.name, tt.qtype))
			if got := values(m.Answer); got != tt.want || m.Rcode != tt.rcode || !m.Authoritative || !m.RecursionAvailable {
				t.Errorf("%s %s by %s: %q, %s, authoritative %t; want %q, %s", tt.name, dns.TypeToString[tt.qtype], network,
					got, dns.RcodeToString[m.Rcode], m.Authoritative, tt.want, dns.RcodeToString[tt.rcode])
			}
			if len(m.Answer) > 0 && m.Answer[0].Header().Name != tt.name {
				t.Errorf("%s: answered as %s, want the client's own letters", tt.name, m.Answer[0].Header().Name)
			}
			if soa := len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA; soa != tt.soa {
				t.Errorf("%s %s: authority %v, want SOA %t", tt.name, dns.TypeToString[tt.qtype], m.Ns, tt.soa)
			}
		}
	}
	if asked := u.questions(); len(asked) > 0 {
		t.Errorf("the upstream was told %q", asked)
	}
	// Names that are not ours, alike or below one, are.
	for _, name := range []string{"x" + internal + ".", "a." + internal + ".", internal + ".other.example.", "1.2.3.4.in-addr.arpa.", "x.in-addr.arpa."} {
		if m := ask(t, at, "udp", question(name, dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %s", name, dns.RcodeToString[m.Rcode])
		}
	}
	if asked := u.questions(); len(asked) != 5 {
		t.Errorf("the upstream was asked %q, want 5 questions", asked)
	}
	// A name that goes is gone with the next state.
	s := state(target.server.address, u.addr)
	s.Services = s.Services[1:]
	if err := target.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if m := ask(t, at, "udp", question(internal+".", dns.TypeA)); m.Rcode != dns.RcodeNameError {
		t.Errorf("a name of no service: %v", m)
	}
}

func TestTheRestIsForwarded(t *testing.T) {
	good := newUpstream(t, echoes)
	failing := newUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) })
	silent := newUpstream(t, func(*dns.Msg, bool) *dns.Msg { return nil })
	wrong := newUpstream(t, func(q *dns.Msg, udp bool) *dns.Msg {
		m := echoes(q, udp)
		m.Question[0].Name = "other.example."
		return m
	})
	missing := newUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeNameError) })
	nobody := netip.MustParseAddrPort(freeAddress(t))
	for _, tt := range []struct {
		name      string
		upstreams []netip.AddrPort
		want      string
		rcode     int
	}{
		{"one", []netip.AddrPort{good.addr}, "192.0.2.1", 0},
		{"nobody listens on the first", []netip.AddrPort{nobody, good.addr}, "192.0.2.1", 0},
		{"the first is silent", []netip.AddrPort{silent.addr, good.addr}, "192.0.2.1", 0},
		{"the first fails", []netip.AddrPort{failing.addr, good.addr}, "192.0.2.1", 0},
		{"the first answers another question", []netip.AddrPort{wrong.addr, good.addr}, "192.0.2.1", 0},
		{"no such name", []netip.AddrPort{missing.addr, good.addr}, "", dns.RcodeNameError},
		{"all fail", []netip.AddrPort{failing.addr, failing.addr}, "", dns.RcodeServerFailure},
		{"all silent", []netip.AddrPort{silent.addr, nobody}, "", dns.RcodeServerFailure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := start(t, Config{Timeout: 300 * time.Millisecond}, state(freeAddress(t), tt.upstreams...))
			for _, network := range []string{"udp", "tcp"} {
				q := question("WWW.example.org.", dns.TypeA)
				m := ask(t, target.Addr().String(), network, q)
				if got := values(m.Answer); got != tt.want || m.Rcode != tt.rcode || m.Question[0].Name != "WWW.example.org." {
					t.Errorf("by %s: %q, %s for %s; want %q, %s", network, got, dns.RcodeToString[m.Rcode], m.Question[0].Name, tt.want, dns.RcodeToString[tt.rcode])
				}
			}
		})
	}
}

func TestLongAnswersAreCutAndAskedForByTCP(t *testing.T) {
	u := newUpstream(t, func(q *dns.Msg, udp bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		for i := range 200 {
			m.Answer = append(m.Answer, &dns.TXT{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{fmt.Sprintf("%030d", i)},
			})
		}
		if udp {
			size := dns.MinMsgSize
			if opt := q.IsEdns0(); opt != nil {
				size = int(opt.UDPSize())
			}
			m.Truncate(size)
		}
		return m
	})
	target := start(t, Config{}, state(freeAddress(t), u.addr))
	for _, size := range []uint16{0, 512, 1232, 4096} {
		q := question("long.example.", dns.TypeTXT)
		most := dns.MinMsgSize
		if size > 0 {
			q.SetEdns0(size, true)
			most = min(int(size), udpSize)
		}
		m := ask(t, target.Addr().String(), "udp", q)
		m.Compress = true // as it came
		if !m.Truncated || m.Len() > most {
			t.Errorf("size %d: truncated %t, %d bytes, want at most %d", size, m.Truncated, m.Len(), most)
		}
		if m = ask(t, target.Addr().String(), "tcp", q); m.Truncated || len(m.Answer) != 200 {
			t.Errorf("size %d by TCP: truncated %t, %d records, want 200", size, m.Truncated, len(m.Answer))
		}
	}
}

func TestOddQuestions(t *testing.T) {
	u := newUpstream(t, echoes)
	target := start(t, Config{}, state(freeAddress(t), u.addr))
	at := target.Addr().String()
	edns := func(version uint8) *dns.Msg {
		q := question(internal+".", dns.TypeA)
		q.SetEdns0(4096, false)
		q.IsEdns0().SetVersion(version)
		return q
	}
	chaos := question("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	notify := question(internal+".", dns.TypeSOA)
	notify.Opcode = dns.OpcodeNotify
	for name, tt := range map[string]struct {
		q     *dns.Msg
		rcode int
	}{
		"EDNS 0": {edns(0), 0}, "EDNS 1": {edns(1), dns.RcodeBadVers}, "CHAOS": {chaos, dns.RcodeRefused},
		"NOTIFY": {notify, dns.RcodeNotImplemented}, "AXFR": {question("example.", dns.TypeAXFR), dns.RcodeRefused},
		"ANY of others": {question("example.", dns.TypeANY), dns.RcodeRefused},
	} {
		m := ask(t, at, "udp", tt.q)
		if m.Rcode != tt.rcode || (m.IsEdns0() != nil) != (tt.q.IsEdns0() != nil) {
			t.Errorf("%s: %v, want %s", name, m, dns.RcodeToString[tt.rcode])
		}
	}
	// Bytes that are no question do no harm.
	c, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, junk := range [][]byte{{}, {0}, []byte(strings.Repeat("\xff", 600)), []byte("GET / HTTP/1.1\r\n\r\n")} {
		_, _ = c.Write(junk)
	}
	tcp, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	_, _ = tcp.Write([]byte{0xff, 0xff, 1, 2, 3}) // and then nothing more
	if m := ask(t, at, "udp", question(internal+".", dns.TypeA)); values(m.Answer) != "198.18.0.10" {
		t.Errorf("after junk: %v", m)
	}
	if len(u.questions()) != 0 {
		t.Errorf("the upstream was asked %q", u.questions())
	}
}

func TestStrangersGetInternalNamesOnly(t *testing.T) {
	u := newUpstream(t, echoes)
	target := start(t, Config{}, state(freeAddress(t), u.addr))
	for from, want := range map[string]int{
		"127.0.0.1": 0, "10.213.0.5": 0, "198.18.0.1": 0, "192.168.1.1": 0, "172.17.0.2": 0, "fd00:1::1": 0, "fe80::1": 0,
		"203.0.113.7": dns.RcodeRefused, "2001:db8::7": dns.RcodeRefused, "198.20.0.1": dns.RcodeRefused,
	} {
		addr := netip.MustParseAddr(from)
		if m := target.answer(question("www.example.org.", dns.TypeA), addr, "udp"); m.Rcode != want {
			t.Errorf("%s asks for www.example.org: %s, want %s", from, dns.RcodeToString[m.Rcode], dns.RcodeToString[want])
		}
		if m := target.answer(question(internal+".", dns.TypeA), addr, "udp"); values(m.Answer) != "198.18.0.10" {
			t.Errorf("%s asks for an internal name: %v", from, m)
		}
	}
}

// A flood of questions for a silent upstream holds at most so many sockets,
// and internal names are answered all the while.
func TestSlowUpstreamHoldsNothingUp(t *testing.T) {
	free := make(chan struct{})
	u := newUpstream(t, func(q *dns.Msg, udp bool) *dns.Msg { <-free; return echoes(q, udp) })
	target := start(t, Config{Timeout: 20 * time.Second, Forwards: 8}, state(freeAddress(t), u.addr))
	from := netip.MustParseAddr("127.0.0.1")
	var wg sync.WaitGroup
	defer wg.Wait()
	results := make(chan int, 100)
	for range 100 {
		wg.Go(func() { results <- target.answer(question("slow.example.", dns.TypeA), from, "udp").Rcode })
	}
	for range 92 {
		if rcode := <-results; rcode != dns.RcodeServerFailure {
			t.Errorf("beyond the bound: %s", dns.RcodeToString[rcode])
		}
	}
	if m := ask(t, target.Addr().String(), "udp", question(internal+".", dns.TypeA)); values(m.Answer) != "198.18.0.10" {
		t.Errorf("internal name meanwhile: %v", m)
	}
	close(free)
	for range 8 {
		if rcode := <-results; rcode != 0 {
			t.Errorf("within the bound: %s", dns.RcodeToString[rcode])
		}
	}
	got := map[string]uint64{}
	for _, c := range target.Counts() {
		got[c.Result] = c.Count
	}
	if got["busy"] != 92 || got["forwarded"] != 8 || got["internal"] != 1 {
		t.Errorf("counts %v", got)
	}
}

func TestListening(t *testing.T) {
	u := newUpstream(t, echoes)
	var owned [][]netip.Addr
	var fail error
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	target := New(Config{Log: slog.New(slog.DiscardHandler), ResolvConf: conf, Own: func(a []netip.Addr) error {
		owned = append(owned, a)
		return fail
	}})
	defer target.Close()
	apply := func(listen string) error {
		t.Helper()
		return target.Apply(context.Background(), state(listen, u.addr))
	}
	if err := apply(""); err != nil || target.Addr().IsValid() || len(owned) != 1 || owned[0] != nil {
		t.Fatalf("off: %v, listens on %s, owned %v", err, target.Addr(), owned)
	}
	first := freeAddress(t)
	if err := apply(first); err != nil {
		t.Fatal(err)
	}
	works := func() {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			if m := ask(t, first, network, question(internal+".", dns.TypeA)); values(m.Answer) != "198.18.0.10" {
				t.Errorf("by %s: %v", network, m)
			}
		}
	}
	works()
	// What cannot be had leaves what there is.
	l, pc := freePair(t)
	if err := apply(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "in use by another program") {
		t.Errorf("an address in use: %v", err)
	}
	works()
	_ = l.Close()
	_ = pc.Close()
	if err := apply("203.0.113.1:53"); err == nil || !strings.Contains(err.Error(), "no such address") {
		t.Errorf("an address of nobody: %v", err)
	}
	works()
	fail = errors.New("lo is down")
	if err := apply("198.18.0.1:53"); err == nil || !strings.Contains(err.Error(), "lo is down") {
		t.Errorf("an address that cannot be made local: %v", err)
	}
	fail = nil
	works()
	// A server that ended by itself comes back.
	_ = target.server.udp.Close()
	for deadline := time.Now().Add(20 * time.Second); target.server.lives() && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	if err := apply(first); err != nil {
		t.Fatal(err)
	}
	works()
	_, port, _ := net.SplitHostPort(first)
	if err := apply(":" + port); err != nil {
		t.Errorf("every address in place of one: %v", err)
	}
	works()
	if err := apply(""); err != nil || target.Addr().IsValid() {
		t.Errorf("off again: %v, listens on %s", err, target.Addr())
	}
	if c, err := net.DialTimeout("tcp", first, time.Second); err == nil {
		_ = c.Close()
		t.Error("it listens on after it was turned off")
	}
}

func TestHostFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# none\nsearch Corp.Example. .\nnameserver 192.0.2.53\nnameserver 198.18.0.1\nnameserver fe80::1%eth0\nnameserver junk\noptions ndots:2\n")
	var h hostFile
	if err := h.read(path); err != nil {
		t.Fatal(err)
	}
	z := newZone(state("198.18.0.1:53"), &h, netip.MustParseAddrPort("198.18.0.1:53"))
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")}
	if !slices.Equal(z.upstreams, want) {
		t.Errorf("upstreams %v, want %v: never itself", z.upstreams, want)
	}
	if _, ok := z.find(internal + ".corp.example."); !ok {
		t.Errorf("suffixes %q do not help", z.suffixes)
	}
	for listen, wantText := range map[string]string{
		"198.18.0.1:53": "nameserver 198.18.0.1\nsearch Corp.Example. .\n",
		":53":           "nameserver 10.213.0.1\n", "0.0.0.0:53": "nameserver 10.213.0.1\n",
		"127.0.0.1:53": "", "198.18.0.1:5353": "", "": "",
	} {
		if got := ResolvConf(state(listen), path); (got == "") != (wantText == "") || !strings.Contains(got, wantText) {
			t.Errorf("ResolvConf for %q: %q, want %q in it", listen, got, wantText)
		}
	}
	// No upstream at all is said.
	write("nameserver 127.0.0.1\n")
	target := New(Config{Log: slog.New(slog.DiscardHandler), ResolvConf: path})
	defer target.Close()
	listen := freeAddress(t)
	if err := target.Apply(t.Context(), state(listen)); err != nil {
		t.Errorf("with 127.0.0.1:53 as upstream: %v", err)
	}
	write("")
	if err := target.Apply(t.Context(), state(listen)); err == nil || !strings.Contains(err.Error(), "dns.upstream") {
		t.Errorf("without an upstream: %v", err)
	}
	if m := ask(t, listen, "udp", question(internal+".", dns.TypeA)); values(m.Answer) != "198.18.0.10" {
		t.Errorf("internal name without an upstream: %v", m)
	}
	if m := ask(t, listen, "udp", question("www.example.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("another name without an upstream: %v", m)
	}
}

func FuzzReverse(f *testing.F) {
	for _, s := range []string{
		"10.0.18.198.in-addr.arpa.", "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.0.0.8.9.1.0.0.0.d.f.ip6.arpa.", "in-addr.arpa.", ".ip6.arpa.",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		addr, ok := reverse(name)
		if !ok {
			return
		}
		back, err := dns.ReverseAddr(addr.String())
		if err != nil || back != name {
			t.Errorf("reverse(%q) = %s, whose name is %q, %v", name, addr, back, err)
		}
	})
}
