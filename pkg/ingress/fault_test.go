// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// rawBackend serves each connection with a function.
func rawBackend(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(long))
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestErrorsHaveAReasonAndTheRequestID(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "h", "/app", closedPort(t)))
	res, body := f.get("nobody.example.com", "/", "Accept: application/json")
	var got struct {
		Status    int
		Error     string
		Reason    string
		RequestID string
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%v: %q", err, body)
	}
	if res.StatusCode != 404 || got.Status != 404 || got.Reason != "no service has the host name nobody.example.com" ||
		len(got.RequestID) != uuidLen || got.RequestID != res.Header.Get("X-Request-ID") {
		t.Errorf("%s %+v", res.Status, got)
	}
	res, body = f.get("h", "/app", "Accept: text/html,application/json;q=0.9")
	if res.StatusCode != 502 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || !strings.Contains(body, res.Header.Get("X-Request-ID")) {
		t.Errorf("%s %v %s", res.Status, res.Header, body)
	}
	if res, body := f.get("h", "/"); res.StatusCode != 404 || !strings.Contains(body, "no service at this path") {
		t.Errorf("%s %s", res.Status, body)
	}
}

func TestA28NoAnswerOnThePort(t *testing.T) {
	at := closedPort(t)
	f := newFixture(t, Config{}, on("a", "h", "/", at))
	c := f.dial()
	for range 2 { // the connection goes on
		c.send("GET / HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n")
		res, body := c.response("GET")
		if want := "nothing listens on " + at.String(); res.StatusCode != 502 || !strings.Contains(body, want) {
			t.Errorf("%s %s, want 502 with %q", res.Status, body, want)
		}
	}
}

// TestA28WhatListensInstead: who can look into the workload is asked, over
// HTTP/1.1 and HTTP/2, when a connect is refused and at no other time.
func TestA28WhatListensInstead(t *testing.T) {
	at := closedPort(t)
	var asked atomic.Int32
	f := newFixture(t, Config{Listening: func(to netip.AddrPort) string {
		if asked.Add(1); to != at {
			t.Errorf("asked for %v, want %v", to, at)
		}
		return "the workload listens on *:9000"
	}}, on("a", "h", "/", at), on("b", "good", "/", backend(t, named("one"))))
	want := "nothing listens on " + at.String() + ": the workload listens on *:9000"
	c := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n")
	if res, body := c.response("GET"); res.StatusCode != 502 || !strings.Contains(body, want) {
		t.Errorf("%s %s, want 502 with %q", res.Status, body, want)
	}
	c.send("GET / HTTP/1.1\r\nHost: good\r\n\r\n")
	if res, _ := c.response("GET"); res.StatusCode != 200 || asked.Load() != 1 {
		t.Errorf("%s, asked %d times, want 200 and once", res.Status, asked.Load())
	}
	t.Run("HTTP2", func(t *testing.T) {
		res, body := fetch(t, f.client2(nil), "http://h/", "Accept", "application/json")
		if res.StatusCode != 502 || !strings.Contains(body, want) {
			t.Errorf("%s %s, want 502 with %q", res.Status, body, want)
		}
	})
}

func TestA28NotRunning(t *testing.T) {
	paused := on("paused", "paused", "/")
	paused.Workload = &model.Workload{Driver: "process", Scale: model.Scale{Paused: true}}
	starting := on("starting", "starting", "/")
	starting.Workload = &model.Workload{Driver: "process"}
	down := on("down", "down", "/", netip.MustParseAddrPort("127.0.0.1:1"))
	down.Backends[0].Condition = model.Down
	f := newFixture(t, Config{}, paused, starting, down)
	for host, want := range map[string]string{"paused": "stopped by its owner", "starting": "no replica is ready yet", "down": "no replica takes requests"} {
		res, body := f.get(host, "/")
		if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, want) {
			t.Errorf("%s: %s %v %s", host, res.Status, res.Header, body)
		}
	}
}

func TestD01PlaceholderAndD02ItsEnd(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "h", "/"))
	res, body := f.get("h", "/any?x")
	if res.StatusCode != 200 || !strings.Contains(body, "Nothing is deployed here yet") || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %s", res.Status, body)
	}
	if res, _ := f.dial().send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na").response("POST"); res.StatusCode != 503 {
		t.Errorf("POST: %s", res.Status)
	}
	c := f.dial() // an open connection sees the change, too
	seen := map[string]bool{}
	svc := on("a", "h", "/", backend(t, named("one")))
	for i := range 40 {
		if i == 20 {
			f.serve(svc)
		}
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		res, body := c.response("GET")
		if res.StatusCode != 200 {
			t.Fatalf("%d: %s", i, res.Status)
		}
		seen[body[:3]] = true
		if (i < 20) == (body == "one GET / ") {
			t.Fatalf("%d: %q", i, body)
		}
	}
}

func Test504SlowReplica(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	f := newFixture(t, Config{Limits: Limits{Answer: 50 * time.Millisecond}},
		on("a", "h", "/", rawBackend(t, func(c net.Conn) { <-release })))
	res, body := f.get("h", "/")
	if res.StatusCode != 504 || !strings.Contains(body, "did not answer within 50ms") {
		t.Errorf("%s %s", res.Status, body)
	}
	// Also with a body that goes on, and while the client still sends.
	c := f.dial().send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
	time.Sleep(200 * time.Millisecond) // the limit does not run while it uploads
	if res, _ := c.send("cde").response("POST"); res.StatusCode != 504 {
		t.Errorf("%s", res.Status)
	}
}

func TestBrokenAnswersAreRefused(t *testing.T) {
	for _, answer := range []string{
		"", "HTTP/1.1 200 OK\r\n", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\nA: b\n\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", bufferSize) + "\r\n\r\n", strings.Repeat("HTTP/1.1 103 Early\r\n\r\n", 40),
	} {
		f := newFixture(t, Config{}, on("a", "h", "/", rawBackend(t, func(c net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, answer)
		})))
		if res, body := f.dial().send("GET / HTTP/1.0\r\nHost: h\r\n\r\n").response("GET"); res.StatusCode != 502 {
			t.Errorf("%.60q: %s %s", answer, res.Status, body)
		}
		f.Close()
	}
}

// What comes after an answer is no answer to the next request.
func TestExcessOfAReplicaIsDropped(t *testing.T) {
	var conns atomic.Int32
	f := newFixture(t, Config{}, on("a", "h", "/", rawBackend(t, func(c net.Conn) {
		conns.Add(1)
		r := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		}
	})))
	c := f.dial()
	for range 3 {
		if _, body := c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").response("GET"); body != "ok" {
			t.Fatalf("%q", body)
		}
	}
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections for 3 answers with excess", n)
	}
}

func TestIdleConnectionThatEndsIsTriedAgain(t *testing.T) {
	var conns atomic.Int32
	// Every connection answers once and then closes without saying so.
	at := rawBackend(t, func(c net.Conn) {
		conns.Add(1)
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	f := newFixture(t, Config{}, on("a", "h", "/", at))
	c := f.dial()
	for i := range 20 {
		method, body := "GET", ""
		if i%2 == 1 { // must not be sent twice: the idle connection is looked at before
			method, body = "POST", "Content-Length: 0\r\n"
			time.Sleep(20 * time.Millisecond) // until the end has come
		}
		if res, got := c.send(method + " / HTTP/1.1\r\nHost: h\r\n" + body + "\r\n").response(method); got != "ok" {
			t.Fatalf("%d: %s %q", i, res.Status, got)
		}
	}
}

func TestPostIsNotSentTwice(t *testing.T) {
	var requests atomic.Int32
	f := newFixture(t, Config{}, on("a", "h", "/", rawBackend(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for n := 0; ; n++ {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			if n == 1 {
				requests.Add(1)
				return // dies with the request
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})))
	c := f.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").response("GET")
	if res, _ := c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").response("POST"); res.StatusCode != 502 {
		t.Errorf("%s", res.Status)
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("the request was seen %d times", n)
	}
}

func TestDeadReplicaIsPassedOver(t *testing.T) {
	// 127.0.0.2 has nobody on the port.
	at := backend(t, named("one"))
	dead := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())
	f := newFixture(t, Config{}, on("a", "h", "/", dead, at))
	c := f.dial()
	for i := range 30 {
		if res, body := c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").response("POST"); body != "one POST / x" {
			t.Fatalf("%d: %s %q", i, res.Status, body)
		}
	}
}

func Test421HostOfAnotherListener(t *testing.T) {
	svc := on("a", "h", "/", closedPort(t))
	svc.TCPNames = []model.TCPName{{Host: "db.example.com", Kind: "POSTGRES", TLS: "passthrough"}}
	f := newFixture(t, Config{}, svc)
	if res, body := f.get("db.example.com", "/"); res.StatusCode != 421 || !strings.Contains(body, "postgres") {
		t.Errorf("%s %s", res.Status, body)
	}
}

func TestL11AllowList(t *testing.T) {
	svc := on("a", "h", "/", backend(t, named("one")))
	svc.Allow = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	f := newFixture(t, Config{}, svc)
	if res, _ := f.get("h", "/"); res.StatusCode != 403 {
		t.Errorf("%s", res.Status)
	}
	f.state.Settings.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	f.serve(svc)
	if res, _ := f.get("h", "/", "X-Forwarded-For: 9.9.9.9, 10.1.2.3"); res.StatusCode != 200 {
		t.Errorf("%s", res.Status)
	}
	if res, _ := f.get("h", "/", "X-Forwarded-For: 10.1.2.3, 9.9.9.9"); res.StatusCode != 403 {
		t.Errorf("%s", res.Status)
	}
}

func TestLimits(t *testing.T) {
	f := newFixture(t, Config{Limits: Limits{Head: 200 * time.Millisecond, Idle: 300 * time.Millisecond, PerClient: 3}},
		on("a", "h", "/", backend(t, named("one"))))
	t.Run("slow head", func(t *testing.T) {
		c := f.dial().send("GET / HTTP/1.1\r\n")
		stop := time.Now().Add(long)
		for time.Now().Before(stop) { // every byte is in time, the head is not
			if _, err := io.WriteString(c, "a"); err != nil {
				break
			}
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if _, err := c.r.Peek(1); err == nil {
				break
			}
		}
		_ = c.SetReadDeadline(time.Now().Add(long))
		if res, _ := c.response("GET"); res.StatusCode != 408 {
			t.Errorf("%s", res.Status)
		}
		_ = c.Close()
	})
	t.Run("nothing", func(t *testing.T) {
		c := f.dial()
		c.ended()
		_ = c.Close()
	})
	t.Run("idle", func(t *testing.T) {
		c := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		c.response("GET")
		c.ended()
		_ = c.Close()
	})
	t.Run("large head", func(t *testing.T) {
		c := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\n")
		go func() { _, _ = io.WriteString(c, "A: "+strings.Repeat("x", 2*bufferSize)) }()
		if res, _ := c.response("GET"); res.StatusCode != 431 {
			t.Errorf("%s", res.Status)
		}
		_ = c.Close()
	})
	t.Run("many headers", func(t *testing.T) {
		if res, _ := f.get("h", "/", strings.Repeat("A: b\r\n", 120)+"B: c"); res.StatusCode != 431 {
			t.Errorf("%s", res.Status)
		}
	})
	t.Run("connections of a client", func(t *testing.T) {
		deadline := time.Now().Add(long)
		for { // those from before must be gone
			f.smu.Lock()
			n := len(f.sessions)
			f.smu.Unlock()
			if n == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d sessions are left", n)
			}
			time.Sleep(5 * time.Millisecond)
		}
		for range 3 {
			c := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			c.response("GET")
		}
		c, err := net.Dial("tcp", f.addr())
		if errors.Is(err, syscall.ECONNRESET) {
			return // it was reset before connect returned
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(long))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a fourth connection was kept: %v", err)
		}
	})
}

// A client that does not read holds nothing for ever.
func TestStalledClientIsCutOff(t *testing.T) {
	gone := make(chan struct{})
	f := newFixture(t, Config{Limits: Limits{Stall: 100 * time.Millisecond}}, on("a", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		b := make([]byte, 1<<20)
		for r.Context().Err() == nil {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})))
	f.dial().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	select {
	case <-gone:
	case <-time.After(long):
		t.Error("the replica still sends")
	}
}

func TestClientThatLeavesEndsTheRequest(t *testing.T) {
	begun, gone := make(chan struct{}), make(chan struct{})
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		close(gone)
	})))
	c := f.dial().send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
	<-begun
	_ = c.Close()
	select {
	case <-gone:
	case <-time.After(long):
		t.Error("the replica was not told")
	}
}

// The same where there is nothing more to read from the client, before the
// answer and within it.
func TestClientThatLeavesEndsTheWait(t *testing.T) {
	for _, path := range []string{"/silent", "/events"} {
		begun, gone := make(chan struct{}), make(chan struct{})
		f := newFixture(t, Config{}, on("a", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/events" {
				w.(http.Flusher).Flush()
			}
			close(begun)
			<-r.Context().Done()
			close(gone)
		})))
		c := f.dial().send("GET " + path + " HTTP/1.1\r\nHost: h\r\n\r\n")
		<-begun
		_ = c.Close()
		select {
		case <-gone:
		case <-time.After(long):
			t.Errorf("%s: the replica was not told", path)
		}
	}
}

// One that only has nothing more to say gets its answer.
func TestHalfClosedClientIsAnswered(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, named("one"))))
	c := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if _, body := c.response("GET"); body != "one GET / " {
		t.Errorf("%q", body)
	}
	c.ended()
}

func TestAccessLogAndCounts(t *testing.T) {
	var out bytes.Buffer
	f := newFixture(t, Config{Access: slog.New(slog.NewJSONHandler(&out, nil))}, on("a", "h", "/", backend(t, named("one"))))
	f.get("h", "/not/logged") // that is the default
	f.counts("p/a", func(c Count) bool { return c.Codes[200] == 1 })
	f.state.Settings.AccessLog.OneIn = 1
	f.apply(f.state.Services)
	f.get("h", "/x?secret", "User-Agent: tester")
	f.get("nobody", "/")
	f.dial().send("nonsense\r\n\r\n").response("GET")
	f.Close()
	dec := json.NewDecoder(&out)
	var lines []map[string]any
	for {
		var l map[string]any
		if dec.Decode(&l) != nil {
			break
		}
		lines = append(lines, l)
	}
	if len(lines) != 3 {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	slices.SortFunc(lines, func(a, b map[string]any) int { return cmp.Compare(a["status"].(float64), b["status"].(float64)) })
	l := lines[0]
	if l["service"] != "p/a" || l["host"] != "h" || l["path"] != "/x" || l["status"] != 200.0 || l["agent"] != "tester" || l["client"] != "127.0.0.1" ||
		l["replica"] == nil || len(l["request"].(string)) != uuidLen {
		t.Errorf("%v", l)
	}
	if lines[1]["status"] != 400.0 || lines[2]["service"] != "none" || lines[2]["status"] != 404.0 {
		t.Errorf("%v", lines[1:])
	}
	got := ""
	for _, c := range f.Counts() {
		n := uint64(0)
		for _, d := range c.Durations {
			n += d
		}
		got += fmt.Sprintf("%s %v %d; ", c.Service, c.Codes, n)
	}
	if want := "none map[400:1 404:1] 2; p/a map[200:2] 2; "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
