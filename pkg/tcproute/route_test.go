// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/conn/haproxytest"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Every kind leads to the service of its name, by whatever spelling of it.
func TestA20PassthroughByName(t *testing.T) {
	for _, k := range Kinds {
		t.Run(k.Label(), func(t *testing.T) {
			w := newWorld(t, nil)
			one := serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "one.example.com"), k == Postgres))
			two := serve(t, "127.0.0.2", "two", one.addr.Port(), overTLS(w.ca.issue(t, "two.example.com"), k == Postgres))
			a, b := service(k, "one.example.com", "passthrough", backend(one)), service(k, "Two.Example.Com", "passthrough", backend(two))
			b.Name.User = "v"
			w.apply(one.addr.Port(), a, b)
			for host, want := range map[string]string{"one.example.com": "one", "two.example.com": "two", "TWO.example.COM": "two"} {
				c, err := w.tls(k, host)
				must(t, err)
				if got := talk(t, c); got != want {
					t.Errorf("%s leads to %s", host, got)
				}
				must(t, c.CloseWrite())
				if _, err := io.ReadAll(c); err != nil {
					t.Errorf("%s: the end: %v", host, err)
				}
				must(t, c.NetConn().Close())
			}
			if n := w.count(k, Routed); n != 3 {
				t.Errorf("%d routed, want 3", n)
			}
			eventually(t, "sessions end", func() bool { return w.flows.count() == 0 })
		})
	}
}

// A25, A26: nobody's name, and a name with a dot, which crypto/tls's client
// cannot send.
func TestA25UnknownNames(t *testing.T) {
	w := newWorld(t, nil)
	s := serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "one.example.com"), false))
	w.apply(s.addr.Port(), service(Redis, "one.example.com", "passthrough", backend(s)), service(Mongo, "m.example.com", "passthrough", backend(s)))
	for host, want := range map[string]Result{"other.example.com": UnknownName, "m.example.com": UnknownName, "": NoName} {
		before := w.count(Redis, want)
		c := w.dial(Redis)
		tc := tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true})
		if err := tc.Handshake(); alertOf(err) != alertUnrecognizedName {
			t.Errorf("%q: %v, want alert 112", host, err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("%q: the connection ends with %v", host, err)
		}
		_ = c.Close() // or the router waits a second for it
		eventually(t, "count", func() bool { return w.count(Redis, want) == before+1 })
	}
	for _, name := range []string{"/var/run/postgresql", "10.0.0.1", "2001:db8::1"} {
		_, ref := w.table.Load().find(Redis, name)
		if ref == nil || ref.result != NoName {
			t.Errorf("%q: %v, want no name", name, ref)
		}
	}
	if to, ref := w.table.Load().find(Redis, "ONE.example.com."); ref != nil || to.host != "one.example.com" {
		t.Errorf("with a dot: %v", ref)
	}
}

// A27 on the wire: byte by byte, and a record of one byte each.
func TestA27SlowHello(t *testing.T) {
	w := newWorld(t, nil)
	got := make(chan []byte, 1)
	s := serve(t, "127.0.0.1", "one", 0, func(c net.Conn) (net.Conn, error) {
		var r helloReader
		var all []byte
		for {
			b := make([]byte, 4096)
			n, err := c.Read(b)
			if err != nil {
				return nil, err
			}
			all = append(all, b[:n]...)
			if h, err := r.feed(all); h != nil || err != nil {
				got <- all
				return c, nil
			}
		}
	})
	w.apply(s.addr.Port(), service(Redis, "one.example.com", "passthrough", backend(s)))
	hello := rewrap(helloOf(t, &tls.Config{ServerName: "one.example.com"}), 3)
	c := w.dial(Redis)
	for _, b := range hello {
		_, err := c.Write([]byte{b})
		must(t, err)
	}
	talk(t, c)
	if all := <-got; !bytes.Equal(all, hello) {
		t.Errorf("the replica has %d bytes of a hello of %d, or others", len(all), len(hello))
	}
}

// A24: what a client without TLS is told.
func TestA24PlainClients(t *testing.T) {
	w := newWorld(t, nil)
	s := serve(t, "127.0.0.1", "one", 0, nil)
	a, b, c := service(Postgres, "a.b", "passthrough", backend(s)), service(Mongo, "a.b", "passthrough", backend(s)), service(Redis, "a.b", "passthrough", backend(s))
	b.Name.User, c.Name.User = "v", "w"
	w.apply(s.addr.Port(), a, b, c)
	startup := append([]byte{0, 0, 0, 16, 0, 3, 0, 0}, "user\x00x\x00\x00"...)
	query := mongoError("a request of the right form", 0, make([]byte, 16))
	for name, tc := range map[string]struct {
		kind Kind
		say  string
		want []string
	}{
		"redis":        {Redis, "*1\r\n$4\r\nPING\r\n", []string{"-ERR fairlead: this server needs TLS", "--sni HOST", "\r\n"}},
		"redis inline": {Redis, "PING\r\n", []string{"-ERR "}},
		"http":         {Redis, "GET / HTTP/1.1\r\n\r\n", []string{"-ERR "}},
		"postgres":     {Postgres, string(startup), []string{"E\x00\x00", "SFATAL\x00", "VFATAL\x00", "C28000\x00", "Mthis server needs TLS", "HConnect with sslmode=require"}},
		"postgres 2":   {Postgres, "\x00\x00\x01\x28\x00\x02\x00\x00", []string{"EFATAL:  this server needs TLS"}},
		"after GSS":    {Postgres, "\x00\x00\x00\x08\x04\xd2\x16\x30" + string(startup), []string{"NE\x00\x00", "C28000\x00"}},
		"GSS twice":    {Postgres, strings.Repeat("\x00\x00\x00\x08\x04\xd2\x16\x30", 2), []string{"NE\x00\x00", "C08P01\x00"}},
		"odd length":   {Postgres, "\x7f\xff\xff\xff\x00\x03\x00\x00", []string{"C08P01\x00"}},
		"mongo":        {Mongo, string(query), []string{"errmsg\x00", "this server needs TLS", "tls=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.dial(tc.kind)
			_, err := io.WriteString(c, tc.say)
			must(t, err)
			if tc.kind == Redis && name != "redis" { // that one sees the router end by itself
				must(t, c.CloseWrite())
			}
			answer, err := io.ReadAll(c)
			if err != nil {
				t.Errorf("read: %v", err)
			}
			for _, part := range tc.want {
				if !bytes.Contains(answer, []byte(part)) {
					t.Errorf("answer %q lacks %q", answer, part)
				}
			}
		})
	}
	t.Run("mongo fields", func(t *testing.T) {
		req := binary.LittleEndian.AppendUint32(nil, 60)
		req = binary.LittleEndian.AppendUint32(req, 77)
		for _, op := range []uint32{opQuery, opMsg} {
			reply := mongoError("no", 13, binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(req[:8:8], 0), op))
			if int(binary.LittleEndian.Uint32(reply)) != len(reply) || binary.LittleEndian.Uint32(reply[8:]) != 77 {
				t.Errorf("reply %q", reply)
			}
			if got := binary.LittleEndian.Uint32(reply[12:]); op == opQuery && got != opReply || op == opMsg && got != opMsg {
				t.Errorf("opcode %d answers %d", got, op)
			}
		}
	})
}

// A24: silence and a trickle end within the deadline, and are counted.
func TestA24Deadline(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Patience = 200 * time.Millisecond })
	s := serve(t, "127.0.0.1", "one", 0, nil)
	w.apply(s.addr.Port(), service(Redis, "a.b", "passthrough", backend(s)))
	silent, trickle := w.dial(Redis), w.dial(Redis)
	_, err := trickle.Write([]byte{22, 3})
	must(t, err)
	for _, c := range []net.Conn{silent, trickle} {
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
	}
	eventually(t, "count", func() bool { return w.count(Redis, TimedOut) == 2 })
	must(t, w.dial(Redis).Close())
	eventually(t, "count", func() bool { return w.count(Redis, Gone) == 1 })
}

// A22: a client that begins with TLS at once reaches a replica that knows only
// SSLRequest; one that does not wait for the answers is understood.
func TestA22PostgresPreambles(t *testing.T) {
	w := newWorld(t, nil)
	s := serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "a.b"), true))
	w.apply(s.addr.Port(), service(Postgres, "a.b", "passthrough", backend(s)))
	direct := tls.Client(w.dial(Postgres), &tls.Config{ServerName: "a.b", RootCAs: w.ca.Pool, NextProtos: []string{alpnPostgres}})
	must(t, direct.Handshake())
	if p := direct.ConnectionState().NegotiatedProtocol; p != alpnPostgres {
		t.Errorf("ALPN %q", p)
	}
	talk(t, direct)

	c := w.dial(Postgres)
	hello := helloOf(t, &tls.Config{ServerName: "a.b"})
	_, err := c.Write(append(append([]byte("\x00\x00\x00\x08\x04\xd2\x16\x30"), sslRequest...), hello...))
	must(t, err)
	b := make([]byte, 3)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "NS\x16" {
		t.Errorf("answers %q, %v; want N, S and a TLS record", b, err)
	}

	// What is not TLS after SSLRequest gets no answer that could be taken for
	// the server's.
	c = w.dial(Postgres)
	_, err = c.Write(append(sslRequest[:8:8], "\x00\x00\x00\x08\x00\x03\x00\x00"...))
	must(t, err)
	if rest, err := io.ReadAll(c); err != nil || string(rest) != "S" {
		t.Errorf("%q, %v", rest, err)
	}
}

// CVE-2021-23222: what a replica, or somebody on the way, adds after its "S" is
// not taken for its words within TLS.
func TestPostgresBytesBeforeTLS(t *testing.T) {
	w := newWorld(t, nil)
	w.certs.Put("a.b", w.ca.issue(t, "a.b"))
	s := serve(t, "127.0.0.1", "one", 0, func(c net.Conn) (net.Conn, error) {
		if _, err := io.ReadFull(c, make([]byte, 8)); err != nil {
			return nil, err
		}
		_, err := io.WriteString(c, "Sinjected")
		must(t, err)
		_, _ = io.Copy(io.Discard, c)
		return nil, io.EOF
	})
	svc := service(Postgres, "a.b", "terminate", backend(s))
	svc.TCPNames[0].BackendTLS = model.BackendTLS{Mode: "on"}
	w.apply(s.addr.Port(), svc)
	c, err := w.tls(Postgres, "a.b")
	must(t, err)
	_, err = c.Write([]byte{0, 0, 0, 8, 0, 3, 0, 0})
	must(t, err)
	answer, _ := io.ReadAll(c)
	if bytes.Contains(answer, []byte("injected")) || !bytes.Contains(answer, []byte("C08006")) {
		t.Errorf("the client reads %q", answer)
	}
}

// Failover: a replica that refuses, and one that has no TLS, are passed over.
func TestFailover(t *testing.T) {
	w := newWorld(t, nil)
	cert := w.ca.issue(t, "a.b")
	good := serve(t, "127.0.0.1", "good", 0, overTLS(cert, true))
	noTLS := serve(t, "127.0.0.2", "no TLS", good.addr.Port(), func(c net.Conn) (net.Conn, error) {
		_, err := io.WriteString(c, "N")
		return nil, errors.Join(err, io.EOF)
	})
	nobody := model.Backend{Addr4: netip.MustParseAddr("127.0.0.3"), Weight: 1}
	w.apply(good.addr.Port(), service(Postgres, "a.b", "passthrough", backend(good), backend(noTLS), nobody))
	for range 20 {
		c, err := w.tls(Postgres, "a.b")
		must(t, err)
		if got := talk(t, c); got != "good" {
			t.Errorf("leads to %q", got)
		}
		must(t, c.Close())
	}
	// With nobody left: an alert without a certificate, words with one.
	w.apply(good.addr.Port(), service(Postgres, "a.b", "passthrough", nobody))
	if _, err := w.tls(Postgres, "a.b"); alertOf(err) != alertInternalError {
		t.Errorf("%v, want alert 80", err)
	}
	w.certs.Put("a.b", cert)
	if text := w.fatal("a.b"); !strings.Contains(text, "C08006") || !strings.Contains(text, "no replica of the service could be reached") {
		t.Errorf("inside TLS: %q", text)
	}
	w.apply(good.addr.Port(), service(Postgres, "a.b", "passthrough"))
	if text := w.fatal("a.b"); !strings.Contains(text, "C57P03") {
		t.Errorf("without replicas: %q", text)
	}
	// A25 for Postgres with a certificate of the name: the text inside.
	w.certs.Put("gone.b", w.ca.issue(t, "gone.b"))
	if text := w.fatal("gone.b"); !strings.Contains(text, "C08004") || !strings.Contains(text, `no PostgreSQL service has the host name "gone.b" here`) {
		t.Errorf("unknown: %q", text)
	}
	// Or with a wildcard that names of services share.
	w.certs.Put("*.shared.b", w.ca.issue(t, "*.shared.b"))
	if text := w.fatal("nobody.shared.b"); !strings.Contains(text, "C08004") || !strings.Contains(text, `"nobody.shared.b" here`) {
		t.Errorf("unknown, below a wildcard: %q", text)
	}
	if _, err := w.tls(Postgres, "a.nobody.shared.b"); alertOf(err) != alertUnrecognizedName {
		t.Errorf("two labels below a wildcard: %v, want alert 112", err)
	}
	w.apply(good.addr.Port(), service(Redis, "a.b", "passthrough", nobody))
	if _, err := w.tls(Redis, "nobody.shared.b"); alertOf(err) != alertUnrecognizedName {
		t.Errorf("Redis, below a wildcard: %v, want alert 112", err)
	}
}

// The same where the pump connects by itself: one replica refuses, one is of a
// family there is no way to, and the client's bytes are not lost.
func TestFailoverOfThePump(t *testing.T) {
	w := newWorld(t, nil)
	good := serve(t, "127.0.0.1", "good", 0, overTLS(w.ca.issue(t, "a.b"), false))
	nobody := model.Backend{Addr4: netip.MustParseAddr("127.0.0.3"), Weight: 1}
	nowhere := model.Backend{Addr6: netip.MustParseAddr("fe80::1"), Weight: 1}
	w.apply(good.addr.Port(), service(Redis, "a.b", "passthrough", backend(good), nobody, nowhere))
	for range 20 {
		w.failed.Clear() // all are tried first again
		c, err := w.tls(Redis, "a.b")
		must(t, err)
		if got := talk(t, c); got != "good" {
			t.Errorf("leads to %q", got)
		}
		must(t, c.Close())
	}
	eventually(t, "the sessions end", func() bool { return w.flows.count() == 0 })
	if n := w.count(Redis, Routed); n != 20 {
		t.Errorf("%d connections are counted as routed, want 20", n)
	}
	w.apply(good.addr.Port(), service(Redis, "a.b", "passthrough", nobody, nowhere))
	if _, err := w.tls(Redis, "a.b"); alertOf(err) != alertInternalError {
		t.Errorf("with nobody left: %v, want alert 80", err)
	}
	eventually(t, "the failure is counted", func() bool { return w.count(Redis, BackendFailed) == 1 })
}

// fatal is what a Postgres client reads inside TLS.
func (w *world) fatal(host string) string {
	w.t.Helper()
	c, err := w.tls(Postgres, host)
	must(w.t, err)
	_, err = c.Write([]byte{0, 0, 0, 8, 0, 3, 0, 0})
	must(w.t, err)
	b, err := io.ReadAll(c)
	must(w.t, err)
	return string(b)
}

// The choice of replicas: primaries before backups, draining and down ones
// never, weights, affinity, fewest connections.
func TestReplicaChoice(t *testing.T) {
	w := newWorld(t, nil)
	at := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }
	b := func(n byte, weight uint16, backup bool, c model.Condition) model.Backend {
		return model.Backend{Addr4: at(n), Weight: weight, Backup: backup, Condition: c}
	}
	svc := service(Redis, "a.b", "passthrough", b(1, 1, false, model.Ready), b(2, 3, false, model.Ready), b(3, 9, true, model.Ready),
		b(4, 9, false, model.Down), b(5, 9, false, model.Draining))
	w.apply(6379, svc)
	to, ref := w.table.Load().find(Redis, "a.b")
	if ref != nil {
		t.Fatal(ref)
	}
	client := netip.MustParseAddr("192.0.2.1")
	firsts := map[byte]int{}
	for range 4000 {
		o := w.order(to, client)
		if len(o) != 3 || o[2].Addr() != at(3) {
			t.Fatalf("order %v", o)
		}
		firsts[o[0].Addr().As4()[3]]++
	}
	if firsts[2] < 2800 || firsts[2] > 3200 {
		t.Errorf("weights 1 and 3: %v", firsts)
	}
	w.failed.Store(netip.AddrPortFrom(at(2), 6379), time.Now().Add(time.Minute))
	if o := w.order(to, client); o[0].Addr() != at(1) || o[2].Addr() != at(2) {
		t.Errorf("one failed just now: %v", o)
	}
	w.failed.Clear()

	svc.Balance.Affinity = "client-ip"
	w.apply(6379, svc)
	to, _ = w.table.Load().find(Redis, "a.b")
	seen := map[netip.Addr]int{}
	for i := range 1000 {
		client := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		first := w.order(to, client)[0]
		if again := w.order(to, client)[0]; again != first {
			t.Fatalf("%s goes to %s and to %s", client, first, again)
		}
		seen[first.Addr()]++
	}
	if seen[at(2)] < 650 || seen[at(2)] > 850 {
		t.Errorf("affinity with weights 1 and 3: %v", seen)
	}

	svc.Balance = model.Balance{Policy: "least-connections"}
	w.apply(6379, svc)
	to, _ = w.table.Load().find(Redis, "a.b")
	leave := w.flows.add(&session{to: to, at: netip.AddrPortFrom(at(2), 6379)})
	for range 2 {
		defer w.flows.add(&session{to: to, at: netip.AddrPortFrom(at(2), 6379)})(0, 0)
	}
	if o := w.order(to, client); o[0].Addr() != at(1) {
		t.Errorf("3 connections at a weight of 3, none at 1: %v", o)
	}
	defer w.flows.add(&session{to: to, at: netip.AddrPortFrom(at(1), 6379)})(0, 0)
	leave(0, 0)
	if o := w.order(to, client); o[0].Addr() != at(2) {
		t.Errorf("2 connections at a weight of 3, one at 1: %v", o)
	}
}

// L11 and the rate limit hold here as in L4.
func TestL11AllowAndRate(t *testing.T) {
	w := newWorld(t, nil)
	s := serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "a.b"), false))
	svc := service(Redis, "a.b", "passthrough", backend(s))
	svc.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.apply(s.addr.Port(), svc)
	if _, err := w.tls(Redis, "a.b"); alertOf(err) != alertAccessDenied {
		t.Errorf("%v, want alert 49", err)
	}
	eventually(t, "count", func() bool { return w.count(Redis, NotAllowed) == 1 })
	svc.Allow = nil
	svc.RateLimit = model.RateLimit{PerSecond: 1, Burst: 3}
	w.apply(s.addr.Port(), svc)
	ok := 0
	for range 8 {
		if c, err := w.tls(Redis, "a.b"); err == nil {
			talk(t, c)
			ok++
		} else if alertOf(err) != alertAccessDenied {
			t.Errorf("%v", err)
		}
	}
	if ok < 3 || ok > 6 {
		t.Errorf("%d of 8 were let through, want about 3", ok)
	}
}

// D13: who is not allowed, or over the rate, wakes nobody.
func TestD13RefusedConnectionsWakeNobody(t *testing.T) {
	var woken atomic.Int32
	var s *server
	w := newWorld(t, func(c *Config) {
		c.Wake = func(context.Context, model.ServiceName, string) ([]model.Backend, error) {
			woken.Add(1)
			return []model.Backend{backend(s)}, nil
		}
	})
	s = serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "a.b"), false))
	svc := service(Redis, "a.b", "passthrough")
	svc.Sleep = model.Asleep
	svc.RateLimit = model.RateLimit{PerSecond: 1, Burst: 1}
	svc.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.apply(s.addr.Port(), svc)
	if _, err := w.tls(Redis, "a.b"); alertOf(err) != alertAccessDenied || woken.Load() != 0 {
		t.Errorf("not allowed: %v, woken %d times", err, woken.Load())
	}
	svc.Allow = nil
	w.apply(s.addr.Port(), svc)
	c, err := w.tls(Redis, "a.b")
	must(t, err)
	talk(t, c)
	if _, err := w.tls(Redis, "a.b"); alertOf(err) != alertAccessDenied || woken.Load() != 1 {
		t.Errorf("over the rate: %v, woken %d times", err, woken.Load())
	}
	eventually(t, "counts", func() bool { return w.count(Redis, NotAllowed) == 1 && w.count(Redis, RateLimited) == 1 })
}

// PROXY protocol: believed from trusted peers, and what it says is what rules
// and replicas see.
func TestProxyProtocol(t *testing.T) {
	w := newWorld(t, nil)
	heads := make(chan string, 10)
	cert := w.ca.issue(t, "a.b")
	s := serve(t, "127.0.0.1", "one", 0, func(c net.Conn) (net.Conn, error) {
		b := make([]byte, 28)
		if _, err := io.ReadFull(c, b); err != nil {
			return nil, err
		}
		heads <- string(b)
		return overTLS(cert, false)(c)
	})
	svc := service(Redis, "a.b", "passthrough", backend(s))
	svc.TCPNames[0].ProxyProtocol = true
	svc.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.state = &model.State{Settings: model.Settings{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	w.apply(s.addr.Port(), svc)
	header := conn.ProxyHeader(netip.MustParseAddrPort("192.0.2.9:999"), netip.MustParseAddrPort("203.0.113.1:6379"))
	connect := func() error {
		c := w.dial(Redis)
		_, err := c.Write(header)
		must(t, err)
		tc := tls.Client(c, &tls.Config{ServerName: "a.b", RootCAs: w.ca.Pool})
		if err := tc.Handshake(); err != nil {
			return err
		}
		talk(t, tc)
		return nil
	}
	must(t, connect())
	if got := <-heads; got != string(header) {
		t.Errorf("the replica was told %x, want %x", got, header)
	}
	if _, err := w.tls(Redis, "a.b"); alertOf(err) != alertAccessDenied {
		t.Errorf("without a header the address is the peer's: %v", err)
	}
	w.state.Settings.TrustedProxies = nil
	w.apply(s.addr.Port(), svc)
	if err := connect(); err == nil {
		t.Error("a header of a peer that is not trusted was believed")
	}
}

// A header that is broken, or not whole in time, ends the connection, and is
// counted; its sender is told nothing.
func TestProxyHeaderHostile(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Patience = 300 * time.Millisecond })
	s := serve(t, "127.0.0.1", "one", 0, nil)
	w.state = &model.State{Settings: model.Settings{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	w.apply(s.addr.Port(), service(Redis, "a.b", "passthrough", backend(s)))
	for _, tc := range []struct {
		in   string
		want Result
	}{
		{"PROXY TCP4 nobody nowhere 1 2\r\n", Malformed},
		{"PROXY TCP4 " + strings.Repeat("1", 4096), Malformed},
		{"PROXY TCP4 192.0.2.9 203.", TimedOut},
		{"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", Malformed},
		{"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0cabc", TimedOut},
	} {
		before := w.count(Redis, tc.want)
		c := w.dial(Redis)
		_, _ = io.WriteString(c, tc.in)
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q: read %q, %v; want the end alone", tc.in, b, err)
		}
		eventually(t, "count", func() bool { return w.count(Redis, tc.want) == before+1 })
	}
}

// A real proxy in front tells of the clients in both versions, and the allow
// list is about them.
func TestBehindHAProxy(t *testing.T) {
	w := newWorld(t, nil)
	cert := w.ca.issue(t, "a.b")
	s := serve(t, "127.0.0.1", "one", 0, overTLS(cert, false))
	svc := service(Redis, "a.b", "passthrough", backend(s))
	svc.Allow = []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}
	w.state = &model.State{Settings: model.Settings{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}}
	w.apply(s.addr.Port(), svc)
	for _, send := range []string{"send-proxy", "send-proxy-v2"} {
		at := haproxytest.Run(t, w.Addr(Redis).String(), send)
		connect := func(from string) error {
			d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			c, err := tls.DialWithDialer(&d, "tcp", at, &tls.Config{ServerName: "a.b", RootCAs: w.ca.Pool})
			if err == nil {
				talk(t, c)
				_ = c.Close()
			}
			return err
		}
		must(t, connect("127.0.0.9"))
		if err := connect("127.0.0.8"); alertOf(err) != alertAccessDenied {
			t.Errorf("%s: a client that is not allowed: %v", send, err)
		}
	}
}

// L08: a replica that leaves keeps its connections until the drain is over;
// one that comes back keeps them for good; a reload cuts nothing.
func TestL08DrainOfRemovedReplicas(t *testing.T) {
	w := newWorld(t, nil)
	cert := w.ca.issue(t, "a.b")
	one := serve(t, "127.0.0.1", "one", 0, overTLS(cert, false))
	two := serve(t, "127.0.0.2", "two", one.addr.Port(), overTLS(cert, false))
	with := func(drain time.Duration, bs ...model.Backend) {
		svc := service(Redis, "a.b", "passthrough", bs...)
		svc.Drain = drain
		w.apply(one.addr.Port(), svc)
	}
	with(time.Hour, backend(one))
	c, err := w.tls(Redis, "a.b")
	must(t, err)
	talk(t, c)
	echo := func() error {
		if _, err := io.WriteString(c, "ping"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 4))
		return err
	}
	with(time.Hour, backend(two))
	must(t, echo())
	with(time.Hour, backend(two), backend(one))
	must(t, echo())
	down := backend(one)
	down.Condition = model.Draining
	with(time.Hour, down)
	must(t, echo())
	w.apply(one.addr.Port()) // the service is gone: its last drain holds
	must(t, echo())
	with(50*time.Millisecond, backend(one), backend(two))
	c2, err := w.tls(Redis, "a.b")
	for err == nil && talk(t, c2) != "one" { // a session of the short drain
		c2, err = w.tls(Redis, "a.b")
	}
	must(t, err)
	with(50*time.Millisecond, backend(two))
	_ = c2.SetDeadline(time.Now().Add(patience))
	if _, err := c2.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the drain: %v, want a reset", err)
	}
}

// A listener's address that is taken is an error, tried again; the other kinds
// go on.
func TestListenAddressTaken(t *testing.T) {
	w := newWorld(t, nil)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "a.b"), false))
	a, b := service(Redis, "a.b", "passthrough", backend(s)), service(Mongo, "a.b", "passthrough", backend(s))
	b.Name.User = "v"
	state := &model.State{Generation: 1, Services: []*model.Service{&a, &b}}
	for i := range state.Services {
		state.Services[i].Ports[0].Container = s.addr.Port()
	}
	state.Settings.Listen = model.Listen{Redis: other.Addr().String(), Mongo: "127.0.0.1:0"}
	want := "listen.redis " + other.Addr().String() + ": the address is in use by another program: stop it, or choose another address"
	if err := w.Apply(t.Context(), state); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	c, err := w.tls(Mongo, "a.b")
	must(t, err)
	talk(t, c)
	must(t, other.Close())
	must(t, w.Apply(t.Context(), state))
	c, err = w.tls(Redis, "a.b")
	must(t, err)
	talk(t, c)
	if w.Addr(Postgres) != nil {
		t.Error("listens for a kind nobody uses")
	}
	off := *state
	off.Generation, off.Settings.Listen.Redis = 2, ""
	must(t, w.Apply(t.Context(), &off))
	if p := w.Problems(); w.Addr(Redis) != nil || len(p) != 1 || !strings.Contains(p[0], `listen.redis is ""`) {
		t.Errorf("off: %v", p)
	}
	_, err = io.WriteString(c, "ping")
	must(t, err)
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Errorf("a closed listener cut its connection: %v", err)
	}
}

// A stop takes no new connections, waits for the old ones, and cuts what does
// not end.
func TestShutdownDrains(t *testing.T) {
	for _, ends := range []bool{true, false} {
		w := newWorld(t, nil)
		s := serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "a.b"), false))
		w.apply(s.addr.Port(), service(Redis, "a.b", "passthrough", backend(s)))
		c, err := w.tls(Redis, "a.b")
		must(t, err)
		talk(t, c)
		addr := w.Addr(Redis).String()
		ctx, cancel := contextWithCancel(t)
		done := make(chan error, 1)
		go func() { done <- w.Shutdown(ctx) }()
		eventually(t, "the listener closes", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
		_, err = io.WriteString(c, "ping")
		must(t, err)
		_, err = io.ReadFull(c, make([]byte, 4))
		must(t, err)
		select {
		case err := <-done:
			t.Fatalf("ended while a connection was open: %v", err)
		default:
		}
		if ends {
			must(t, c.Close())
			if err := <-done; err != nil {
				t.Error(err)
			}
			cancel()
			continue
		}
		cancel()
		if err := <-done; err == nil || !strings.HasPrefix(err.Error(), "1 connections") {
			t.Errorf("error %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %v, want a reset", err)
		}
	}
}

// Clients that retry hard wait longer and longer; others do not.
func TestStrikes(t *testing.T) {
	l := conn.NewLedger()
	now := time.Now()
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var waits []time.Duration
	for range 200 {
		waits = append(waits, strike(l, a, now))
	}
	if waits[strikesFree-1] != 0 || waits[strikesFree] == 0 || waits[199] != strikeDelayMax {
		t.Errorf("waits %v", waits)
	}
	if w := strike(l, b, now); w != 0 {
		t.Errorf("another client waits %s", w)
	}
	if w := strike(l, a, now.Add(2*time.Minute)); w != 0 {
		t.Errorf("after two minutes: %s", w)
	}
	// Many addresses take no more memory, and do not make room by pushing out
	// who strikes all the time.
	for i := range 100_000 {
		strike(l, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now.Add(2*time.Minute+time.Duration(i)))
	}
}

// A client that asks for unknown names in a loop is slowed; a name it may have
// is not.
func TestRetryStormIsSlowed(t *testing.T) {
	w := newWorld(t, nil)
	s := serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "a.b"), false))
	w.apply(s.addr.Port(), service(Redis, "a.b", "passthrough", backend(s)))
	begun := time.Now()
	for range strikesFree + 4 { // the last four wait 100, 200, 300 and 400 ms
		if _, err := w.tls(Redis, "x.y"); alertOf(err) != alertUnrecognizedName {
			t.Fatalf("%v, want alert 112", err)
		}
	}
	// Strikes fade a little meanwhile.
	if took := time.Since(begun); took < 500*time.Millisecond {
		t.Errorf("%d hopeless connections took %s", strikesFree+4, took)
	}
	c, err := w.tls(Redis, "a.b")
	must(t, err)
	talk(t, c)
}

// Over the limit of connections a client is told so, and counted; what is open
// stays.
func TestSessionsAreLimited(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Sessions = 2 })
	s := serve(t, "127.0.0.1", "one", 0, overTLS(w.ca.issue(t, "a.b"), false))
	w.apply(s.addr.Port(), service(Redis, "a.b", "passthrough", backend(s)))
	var open []*tls.Conn
	for range 2 {
		c, err := w.tls(Redis, "a.b")
		must(t, err)
		talk(t, c)
		open = append(open, c)
	}
	if _, err := w.tls(Redis, "a.b"); alertOf(err) != alertInternalError {
		t.Errorf("%v, want alert 80", err)
	}
	eventually(t, "count", func() bool { return w.count(Redis, Limited) == 1 })
	must(t, open[0].NetConn().Close())
	eventually(t, "its end", func() bool { return w.flows.count() == 1 })
	c, err := w.tls(Redis, "a.b")
	must(t, err)
	talk(t, c)
}
