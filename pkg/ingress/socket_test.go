// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// socketBackend upgrades and then hands the connection to serve.
func socketBackend(t *testing.T, serve func(net.Conn, *bufio.Reader)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
			http.Error(w, "no upgrade", http.StatusTeapot)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n"+
			"Sec-WebSocket-Protocol: %s\r\nSec-WebSocket-Extensions: %s\r\nX-Path: %s\r\nX-Proto: %s\r\nX-ID: %s\r\n\r\n",
			r.Header.Get("Sec-WebSocket-Protocol"), r.Header.Get("Sec-WebSocket-Extensions"), r.RequestURI, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Request-ID"))
		serve(c, rw.Reader)
	}
}

func echoAll(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r) }

const upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n" +
	"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"

func sockets(svc model.Service) model.Service {
	svc.HTTP[0].Paths[0].WebSocket = true
	return svc
}

func (c *raw) upgrade(target, host string) *http.Response {
	c.t.Helper()
	c.send("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + upgrade + "\r\n")
	res, err := http.ReadResponse(c.r, &http.Request{Method: "GET"})
	if err != nil {
		c.t.Fatal(err)
	}
	return res
}

func (c *raw) expect(want string) {
	c.t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c.r, b); err != nil || string(b) != want {
		c.t.Fatalf("read %q, %v; want %q", b, err, want)
	}
}

func TestL03WebSocketBesideAWebServer(t *testing.T) {
	f := newFixture(t, Config{}, on("web", "h", "/app", backend(t, named("web"))), sockets(on("ws", "h", "/ws", backend(t, socketBackend(t, echoAll)))))
	if _, body := f.get("h", "/app"); body != "web GET /app " {
		t.Errorf("%q", body)
	}
	for _, target := range []string{"/ws", "/ws/", "/ws?x=y"} {
		c := f.dial()
		res := c.upgrade(target, "h")
		h := res.Header
		if res.StatusCode != 101 || h.Get("Sec-WebSocket-Protocol") != "chat" || h.Get("Sec-WebSocket-Extensions") != "permessage-deflate" ||
			h.Get("X-Path") != target || h.Get("Connection") != "Upgrade" || h.Get("Upgrade") != "websocket" || len(h.Get("X-ID")) != uuidLen {
			t.Fatalf("%s: %s %v", target, res.Status, h)
		}
		active(f, 1)
		for _, s := range []string{"hello", strings.Repeat("x", 100_000), "bye"} {
			go func() { _, _ = io.WriteString(c, s) }()
			c.expect(s)
		}
		_ = c.Conn.(*net.TCPConn).CloseWrite() // ends one way, the other follows
		c.ended()
		active(f, 0)
	}
}

// active waits until so many requests of p/ws are under way (row L07).
func active(f *fixture, want int64) {
	f.t.Helper()
	f.counts("p/ws", func(c Count) bool { return c.Active == want })
}

// Bytes that come with the request for the upgrade, or with the 101, are the
// tunnel's, and either side may end first.
func TestTunnelEnds(t *testing.T) {
	done := make(chan struct{})
	f := newFixture(t, Config{}, sockets(on("ws", "h", "/", backend(t, socketBackend(t, func(c net.Conn, r *bufio.Reader) {
		defer close(done)
		b := make([]byte, 5)
		_, _ = io.ReadFull(r, b)
		_, _ = c.Write(b)
		_ = c.(*net.TCPConn).CloseWrite()
		rest, _ := io.ReadAll(r)
		if string(rest) != "last words" {
			t.Errorf("the replica read %q after its end", rest)
		}
	})))))
	c := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\n" + upgrade + "\r\nearly")
	if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	c.expect("early")
	if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatalf("%v, want the end of one direction", err)
	}
	c.send("last words")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	select {
	case <-done:
	case <-time.After(long):
		t.Error("the replica was not told of the end")
	}
}

func TestL13WebSocketIsASwitch(t *testing.T) {
	f := newFixture(t, Config{}, on("ws", "h", "/", backend(t, socketBackend(t, echoAll))))
	if res := f.dial().upgrade("/", "h"); res.StatusCode != 403 {
		t.Errorf("%s, want 403", res.Status)
	}
	// Other protocols are not switched to, whatever the client asks.
	res, body := f.get("h", "/", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade, HTTP2-Settings")
	if res.StatusCode != 418 {
		t.Errorf("%s %s", res.Status, body)
	}
	f.serve(sockets(on("ws", "h", "/", backend(t, socketBackend(t, echoAll)))))
	if res := f.dial().upgrade("/", "h"); res.StatusCode != 101 {
		t.Errorf("%s, want 101", res.Status)
	}
	if res, _ := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n" + upgrade + "\r\nx").response("GET"); res.StatusCode != 400 {
		t.Errorf("with a body: %s, want 400", res.Status)
	}
}

func TestWebSocketRefusedByTheReplica(t *testing.T) {
	f := newFixture(t, Config{}, sockets(on("ws", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) }))))
	c := f.dial()
	for range 2 {
		if res, body := c.send("GET / HTTP/1.1\r\nHost: h\r\n" + upgrade + "\r\n").response("GET"); res.StatusCode != 403 || body != "no\n" {
			t.Fatalf("%s %q", res.Status, body)
		}
	}
}

func TestL05PlainWebSocketOfATLSHost(t *testing.T) {
	a := newAuthority(t)
	f := newFixture(t, Config{Certificates: a}, sockets(secured(on("ws", "h.test", "/", backend(t, socketBackend(t, echoAll))))))
	if res := f.dial().upgrade("/", "h.test"); res.StatusCode != 101 {
		t.Errorf("before the certificate: %s, want 101", res.Status)
	}
	a.issue("h.test")
	res := f.dial().upgrade("/", "h.test")
	if res.StatusCode != 426 || !strings.Contains(res.Header.Get("Upgrade"), "TLS") {
		t.Errorf("%s %v, want 426", res.Status, res.Header)
	}
	if res := f.dialTLS(a, "h.test").upgrade("/", "h.test"); res.StatusCode != 101 || res.Header.Get("X-Proto") != "https" {
		t.Errorf("wss: %s", res.Status)
	}
}

func TestL02WebSocketOverTLS(t *testing.T) {
	a := newAuthority(t, "tls.test")
	replicas := map[string]netip.AddrPort{
		"off": backend(t, socketBackend(t, echoAll)), "on": tlsHTTP1(t, a.leaf("replica.test"), socketBackend(t, echoAll)),
	}
	var all []model.Service
	for mode, at := range replicas {
		for _, host := range []string{"tls.test", "plain.test"} {
			svc := sockets(on(mode+host[:1], host, "/"+mode, at))
			svc.HTTP[0].TLS = host == "tls.test"
			svc.HTTP[0].Paths[0].BackendTLS = model.BackendTLS{Mode: mode, ServerName: "replica.test"}
			all = append(all, svc)
		}
	}
	f := newFixture(t, Config{Certificates: a}, all...)
	for mode := range replicas {
		for _, host := range []string{"tls.test", "plain.test"} {
			var c *raw
			if host == "tls.test" {
				c = f.dialTLS(a, host)
			} else {
				c = f.dial()
			}
			if res := c.upgrade("/"+mode, host); res.StatusCode != 101 {
				t.Fatalf("%s %s: %s", host, mode, res.Status)
			}
			c.send("hello").expect("hello")
			type writeCloser interface{ CloseWrite() error }
			_ = c.Conn.(writeCloser).CloseWrite()
			c.ended()
		}
	}
}

// tlsHTTP1 is a TLS server that does not offer HTTP/2.
func tlsHTTP1(t *testing.T, cert *tls.Certificate, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// A WebSocket outlives every limit in silence. The limits are a tenth of a
// second here; FAIRLEAD_TEST_L06=301s runs the true time with the true limits.
func TestL06SilentWebSocketStaysOpen(t *testing.T) {
	silence := time.Second
	cfg := Config{Limits: Limits{Head: 100 * time.Millisecond, Idle: 100 * time.Millisecond, Stall: 100 * time.Millisecond, Answer: 100 * time.Millisecond}}
	if s := os.Getenv("FAIRLEAD_TEST_L06"); s != "" {
		var err error
		if silence, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
		cfg = Config{}
	}
	f := newFixture(t, cfg, sockets(on("ws", "h", "/", backend(t, socketBackend(t, echoAll)))))
	c := f.dial()
	_ = c.SetDeadline(time.Now().Add(silence + long))
	c.upgrade("/", "h")
	c.send("before").expect("before")
	time.Sleep(silence) // the thing under test
	c.send("after").expect("after")
}

func TestServerSentEvents(t *testing.T) {
	next := make(chan string)
	f := newFixture(t, Config{Limits: Limits{Idle: 50 * time.Millisecond, Stall: 50 * time.Millisecond, Answer: 50 * time.Millisecond}},
		on("a", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.(http.Flusher).Flush()
			for e := range next {
				fmt.Fprintf(w, "data: %s\n\n", e)
				w.(http.Flusher).Flush()
			}
		})))
	c := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body := bufio.NewReader(res.Body)
	for _, e := range []string{"one", "two", "three"} {
		time.Sleep(150 * time.Millisecond) // longer than any limit
		next <- e
		line, err := body.ReadString('\n')
		if err != nil || line != "data: "+e+"\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_, _ = body.ReadString('\n')
	}
	close(next)
	if _, err := body.ReadByte(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestExpectContinue(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.Copy(w, r.Body)
	})))
	c := f.dial().send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	for _, want := range []int{103, 100} {
		if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != want && res.StatusCode != 203-want {
			t.Fatalf("%v, %v, want %d", res, err, want)
		}
	}
	if _, body := c.send("hello").response("POST"); body != "hello" {
		t.Errorf("%q", body)
	}
	c.send("POST /no HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if res, body := c.response("POST"); res.StatusCode != 413 || body != "too large\n" || !res.Close {
		t.Errorf("%s %q, close %v", res.Status, body, res.Close)
	}
	c.ended()
}

// An answer before the end of the request reaches a client that still sends.
func TestEarlyAnswer(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "h", "/", rawBackend(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n")
	})))
	c := f.dial().send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
	go func() {
		b := make([]byte, 1<<16)
		for {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	if res, body := c.response("POST"); res.StatusCode != 413 || body != "no\n" {
		t.Errorf("%s %q", res.Status, body)
	}
}

func TestD12RewriteAndL04StripPrefix(t *testing.T) {
	at := backend(t, named("r"))
	svc := on("a", "h", "/strip", at)
	path := svc.HTTP[0].Paths[0]
	add := func(p string, strip bool, re, target string) {
		n := path
		n.Path, n.StripPrefix, n.Rewrite = p, strip, model.Rewrite{Match: re, Target: target}
		svc.HTTP[0].Paths = append(svc.HTTP[0].Paths, n)
	}
	svc.HTTP[0].Paths[0].StripPrefix = true
	add("/re", false, `^/re/([a-z]+)/(.*)$`, "/$2/$1")
	add("/both", true, `^/x`, "/y")
	add("/query", false, `^/query/(.*)$`, "/q?id=$1")
	add("/bad", false, `^.*$`, "no path")
	add("/тест", true, "", "")
	f := newFixture(t, Config{}, svc)
	for target, want := range map[string]string{
		"/strip": "/", "/strip/": "/", "/strip/a?b": "/a?b", "/strip?x": "/?x", "/re/ab/1/2": "/1/2/ab", "/re/1": "/re/1", "/both/x/x?q": "/y/x?q",
		"/query/7?a=b": "/q?id=7&a=b", "/query/7": "/q?id=7", "/%D1%82%D0%B5%D1%81%D1%82/%41": "/%41", "/str%69p/a%2Fb": "/a%2Fb",
	} {
		if res, body := f.get("h", target); body != "r GET "+want+" " {
			t.Errorf("%s: %s %q, want %q", target, res.Status, body, want)
		}
	}
	if res, _ := f.get("h", "/bad/x"); res.StatusCode != 400 {
		t.Errorf("%s", res.Status)
	}
}

// Routes and replicas change all the time; no request, stream or WebSocket
// notices (row A05 for HTTP).
func TestRoutesChangeUnderLoad(t *testing.T) {
	one, two := backend(t, named("one")), backend(t, named("two"))
	socket := sockets(on("ws", "h", "/ws", backend(t, socketBackend(t, echoAll))))
	f := newFixture(t, Config{}, on("a", "h", "/", one), socket)
	ws := f.dial()
	ws.upgrade("/ws", "h")
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error, 8)
	for range cap(results) {
		c := f.dial()
		go func() {
			for n := 0; ; n++ {
				if ctx.Err() != nil && n > 0 {
					results <- nil
					return
				}
				_, err := io.WriteString(c, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab")
				if err == nil {
					var res *http.Response
					if res, err = http.ReadResponse(c.r, nil); err == nil {
						var body []byte
						if body, err = io.ReadAll(res.Body); err == nil && (res.StatusCode != 200 || !strings.HasSuffix(string(body), " POST /x ab")) {
							err = fmt.Errorf("%s %q", res.Status, body)
						}
					}
				}
				if err != nil {
					results <- err
					return
				}
			}
		}()
	}
	stop := time.Now().Add(time.Second)
	for i := 0; time.Now().Before(stop); i++ {
		switch i % 4 {
		case 0:
			f.serve(on("a", "h", "/", two), socket)
		case 1:
			f.serve(on("a", "h", "/", one), on("b", "other", "/", two))
		case 2:
			f.serve(on("b", "h", "/x", two), on("a", "h", "/", one), socket)
		case 3:
			f.serve(on("a", "h", "/", one), socket)
		}
		time.Sleep(2 * time.Millisecond)
	}
	cancel()
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	ws.send("still").expect("still")
}

func TestA04RequestsSpread(t *testing.T) {
	seen := map[string]int{}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
	})}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	var all []netip.AddrPort
	for i := range 3 {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}), port))
	}
	svc := on("a", "h", "/", all...)
	svc.Backends[2].Weight = 2
	svc.Backends = append(svc.Backends, model.Backend{Addr4: netip.MustParseAddr("127.0.0.9"), Backup: true, Weight: 1})
	f := newFixture(t, Config{}, svc)
	c := f.dial()
	for range 800 {
		_, body := c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").response("GET")
		host, _, _ := net.SplitHostPort(body)
		seen[host]++
	}
	// 200 : 200 : 400, five standard deviations wide.
	for host, want := range map[string]int{"127.0.0.1": 200, "127.0.0.2": 200, "127.0.0.3": 400, "127.0.0.9": 0} {
		if n := seen[host]; n < want-70 || n > want+70 || want == 0 && n > 0 {
			t.Errorf("%s got %d of 800, want about %d", host, n, want)
		}
	}
	svc.Backends[0].Condition, svc.Backends[1].Condition, svc.Backends[2].Condition = model.Draining, model.Down, model.Down
	f.serve(svc)
	if _, body := c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").response("GET"); !strings.HasPrefix(body, "127.0.0.9:") {
		t.Errorf("%q, want the backup (L10)", body)
	}
}
