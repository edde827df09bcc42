// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/fairlead-lb/fairlead/pkg/tcproute/tcptest"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// busyNode is a node whose fronts are under load: HTTP with and without TLS,
// connections by name with passthrough and terminate, and by virtual IP.
type busyNode struct {
	*internet
	ca *tcptest.Authority

	stop   chan struct{}
	wg     sync.WaitGroup
	served sync.Map // kind of load → *tally
	mu     sync.Mutex
	errs   []error
}

const (
	plainHost  = "plain.example.com"
	secureHost = "shop.example.com"
	cacheHost  = "cache.example.com" // terminate
	ownHost    = "own.example.com"   // passthrough
)

// newBusyNode starts the servers and an agent.
func newBusyNode(t *testing.T) *busyNode {
	t.Helper()
	b := &busyNode{internet: newInternet(t), stop: make(chan struct{})}
	var err error
	b.ca, err = tcptest.NewAuthority()
	must(t, err)
	cert, err := b.ca.Issue(ownHost)
	must(t, err)
	b.l.Serve(t)
	for _, r := range b.l.Replicas {
		r.HandleTCP(t, 8080, serveWeb)
		r.HandleTCP(t, 7002, func(c net.Conn) { _, _ = io.Copy(c, c) })
		r.HandleTCP(t, 7443, func(c net.Conn) {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			_, _ = io.Copy(s, s)
		})
	}
	for _, h := range []string{plainHost, secureHost, cacheHost, ownHost} {
		b.zone.set("A", h, lab.Node4.String())
	}
	b.a.WriteText(t, b.config())
	b.a.Run(t)
	b.a.WaitReady(t, 0)
	b.certificates(t, cacheHost, secureHost)
	t.Cleanup(func() { b.end() })
	return b
}

func (b *busyNode) config() string {
	var replicas []string
	for _, r := range b.l.Replicas {
		replicas = append(replicas, fmt.Sprintf("{address: [%s, \"%s\"]}", r.Addr4, r.Addr6))
	}
	all := "  health: {type: none}\n  replicas: [" + strings.Join(replicas, ", ") + "]\n"
	return fmt.Sprintf(`node: {interfaces: [up0], addresses: [%s, "%s"], cgroup: ""}
listen: {http: ":80", https: ":443", dns: "198.51.100.1:5300"}
acme: {directory: %q, caFile: %q, email: ops@example.com}
domains: {resolver: %q}
services:
- project: shop
  user: web
  run: {containerPort: 8080, servicePort: 90}
%[6]s  expose:
  - http: {host: plain.example.com, tls: "off", paths: [{path: /, servicePort: 90}]}
  - http: {host: shop.example.com, tls: auto, redirect: true, paths: [{path: /, servicePort: 90}, {path: /ws, servicePort: 90, websocket: true}]}
- project: shop
  user: cache
  run: {containerPort: 7002, servicePort: 6379}
%[6]s  expose:
  - tcp: {kind: REDIS, host: cache.example.com, tls: terminate}
- project: shop
  user: own
  run: {containerPort: 7443, servicePort: 6379}
%[6]s  expose:
  - tcp: {kind: REDIS, host: own.example.com}
- project: shop
  user: vip
  vip: 198.18.0.60
  vip6: fd00:198:18::3c
  run: {containerPort: 7000, servicePort: 70}
%[6]s`, lab.Node4, lab.Node6, b.internet.ca.Directory, b.internet.ca.CAFile, b.dns, all)
}

// serveWeb answers requests, and echoes the frames of a WebSocket.
func serveWeb(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if strings.EqualFold(req.Header.Get("Upgrade"), "websocket") {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			echoFrames(c, r)
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body)+3, "ok:"+string(body)); err != nil {
			return
		}
	}
}

// frame is a short binary frame; a client's is masked, with zeros.
func frame(payload string, client bool) []byte {
	if client {
		return append([]byte{0x82, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	return append([]byte{0x82, byte(len(payload))}, payload...)
}

func echoFrames(c net.Conn, r *bufio.Reader) {
	head := make([]byte, 6)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return
		}
		payload := make([]byte, head[1]&0x7f)
		if _, err := io.ReadFull(r, payload); err != nil || head[0] != 0x82 {
			return
		}
		if _, err := c.Write(frame(string(payload), false)); err != nil {
			return
		}
	}
}

// dial connects to a port of the node, and does TLS if there is a config.
func (b *busyNode) dial(port uint16, c *tls.Config) (net.Conn, error) {
	raw, err := b.l.Client.Dial("tcp", netip.AddrPort{}, netip.AddrPortFrom(lab.Node4, port), 20*time.Second)
	if err != nil || c == nil {
		return raw, err
	}
	_ = raw.SetDeadline(time.Now().Add(30 * time.Second))
	t := tls.Client(raw, c)
	if err := t.Handshake(); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return t, nil
}

func (b *busyNode) secure(name string) *tls.Config {
	roots := b.roots
	if name == ownHost {
		roots = b.ca.Pool
	}
	return &tls.Config{ServerName: name, RootCAs: roots}
}

// load runs a step again and again on some goroutines until end. The first
// error of each ends it.
func (b *busyNode) load(kind string, workers int, step func() error) {
	n := &tally{}
	b.served.Store(kind, n)
	for range workers {
		b.wg.Go(func() {
			for {
				select {
				case <-b.stop:
					return
				default:
				}
				begun := time.Now()
				if err := step(); err != nil {
					b.mu.Lock()
					b.errs = append(b.errs, fmt.Errorf("%s %s, after %d: %w", time.Now().Format("15:04:05.000"), kind, n.Load(), err))
					b.mu.Unlock()
					return
				}
				took := time.Since(begun)
				n.add(took)
				b.rest(took)
			}
		})
	}
}

// rest leaves a slower machine time for what is under test: the load would else
// take all that an emulated processor has. Elsewhere there is none.
func (b *busyNode) rest(took time.Duration) {
	if lab.Slower() == 1 {
		return
	}
	select {
	case <-b.stop:
	case <-time.After(min(took*time.Duration(4*lab.Slower()), 4*time.Second)):
	}
}

// tally counts the steps of a load.
type tally struct{ n, longest atomic.Int64 }

func (c *tally) add(took time.Duration) {
	c.n.Add(1)
	for old := c.longest.Load(); int64(took) > old && !c.longest.CompareAndSwap(old, int64(took)); {
		old = c.longest.Load()
	}
}

// Load is the count.
func (c *tally) Load() int64 { return c.n.Load() }

// end stops the load and returns what went wrong.
func (b *busyNode) end() error {
	select {
	case <-b.stop:
	default:
		close(b.stop)
	}
	b.wg.Wait()
	return b.err()
}

func (b *busyNode) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.errs...)
}

func (b *busyNode) counts() string {
	var out []string
	b.served.Range(func(k, v any) bool {
		c := v.(*tally)
		out = append(out, fmt.Sprintf("%s %d (longest %s)", k, c.Load(), time.Duration(c.longest.Load()).Round(time.Millisecond)))
		return true
	})
	return strings.Join(out, ", ")
}

// ask sends one request and reads the answer; it tells whether another one may
// follow.
func ask(c net.Conn, r *bufio.Reader, host string) (again bool, err error) {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	// A POST: nobody may send it twice.
	if _, err := fmt.Fprintf(c, "POST /x HTTP/1.1\r\nHost: %s\r\nContent-Length: 2\r\n\r\nab", host); err != nil {
		return false, err
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return false, err
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "ok:ab" {
		return false, fmt.Errorf("%s %q: %w", res.Status, body, err)
	}
	return !res.Close, nil
}

// begin starts every kind of load.
func (b *busyNode) begin(t *testing.T) {
	t.Helper()
	for _, secure := range []bool{false, true} {
		name, host, port, config := "http", plainHost, uint16(80), (*tls.Config)(nil)
		if secure {
			name, host, port, config = "https", secureHost, 443, b.secure(secureHost)
		}
		b.load(name+" new connections", 2, func() error {
			c, err := b.dial(port, config)
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = ask(c, bufio.NewReader(c), host)
			return err
		})
		b.load(name+" kept connections", 2, func() error {
			c, err := b.dial(port, config)
			if err != nil {
				return err
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for n := 0; n < 200; n++ {
				if again, err := ask(c, r, host); err != nil {
					return fmt.Errorf("request %d of the connection: %w", n, err)
				} else if !again {
					break
				}
			}
			return nil
		})
	}
	h2 := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: b.secure(secureHost), DialContext: func(context.Context, string, string) (net.Conn, error) {
		return b.dial(443, nil)
	}}
	t.Cleanup(h2.CloseIdleConnections)
	b.load("http/2 requests", 2, func() error {
		res, err := (&http.Client{Transport: h2, Timeout: 20 * time.Second}).Get("https://" + secureHost + "/x")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "ok:" || res.ProtoMajor != 2 {
			return fmt.Errorf("%s %s %q: %w", res.Proto, res.Status, body, err)
		}
		return nil
	})
	b.load("new connections by name", 1, b.newConnection)
	b.load("questions of names", 1, b.question)
	for _, host := range []string{cacheHost, ownHost} {
		c, err := b.dial(6379, b.secure(host))
		must(t, err)
		b.stream(host, c, func(s string) (string, string) { return s, s })
	}
	ws := b.webSocket(t)
	b.stream("WebSocket", ws, func(s string) (string, string) { return string(frame(s, true)), string(frame(s, false)) })
}

// question asks for an internal name, over UDP, and once more if there is no
// answer, as every client does: a successor that is killed takes what it has read
// with it.
func (b *busyNode) question() error {
	c, err := b.l.Client.Dial("udp", netip.AddrPort{}, netip.AddrPortFrom(lab.Node4, 5300), 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	d := &dns.Conn{Conn: c}
	q := new(dns.Msg).SetQuestion("fairlead-shop-run-vip.", dns.TypeA)
	var answer *dns.Msg
	for tries := 0; answer == nil; tries++ {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		if err := d.WriteMsg(q); err != nil {
			return err
		}
		if answer, err = d.ReadMsg(); err != nil && tries == 1 {
			return err
		}
	}
	if len(answer.Answer) != 1 || !strings.Contains(answer.Answer[0].String(), "198.18.0.60") {
		return fmt.Errorf("answer %s", answer)
	}
	return nil
}

func (b *busyNode) newConnection() error {
	c, err := b.dial(6379, b.secure(ownHost))
	if err != nil {
		return err
	}
	defer c.Close()
	return echoed(c, "hello", "hello")
}

// webSocket opens one.
func (b *busyNode) webSocket(t *testing.T) net.Conn {
	t.Helper()
	ws, err := b.dial(443, b.secure(secureHost))
	must(t, err)
	_, err = io.WriteString(ws, "GET /ws HTTP/1.1\r\nHost: "+secureHost+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	must(t, err)
	head := make([]byte, 0, 1024)
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) && len(head) < cap(head) {
		_, err := io.ReadFull(ws, head[len(head):len(head)+1])
		must(t, err)
		head = head[:len(head)+1]
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("no WebSocket: %s", head)
	}
	return ws
}

// stream keeps one connection busy with exchanges until the end.
func (b *busyNode) stream(kind string, c net.Conn, exchange func(string) (send, want string)) {
	n := 0
	b.load("exchanges of one connection: "+kind, 1, func() error {
		n++
		send, want := exchange(fmt.Sprintf("%s %d", kind, n))
		time.Sleep(5 * time.Millisecond)
		return echoed(c, send, want)
	})
	b.wg.Go(func() {
		<-b.stop
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		time.Sleep(100 * time.Millisecond) // after the last exchange
		_ = c.Close()
	})
}

func echoed(c net.Conn, send, want string) error {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, send); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		return fmt.Errorf("%q, want %q: %w", got, want, err)
	}
	return nil
}
