// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// listen serves every connection on a loopback address until the test ends.
func listen(t *testing.T, address string, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); served.Wait() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// says reads a request and answers with text.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, text)
		}
	}
}

// silent takes what comes and never answers.
func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func endless(c net.Conn) {
	says("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")(c)
	for {
		if _, err := c.Write(bytes.Repeat([]byte("x"), 1000)); err != nil {
			return
		}
	}
}

func TestProbe(t *testing.T) {
	tests := []struct {
		name   string
		serve  func(net.Conn)
		kind   string
		status []int
		want   string // ADDRESS stands for the address and port
	}{
		{"tcp", silent, "tcp", nil, ""},
		{"200", says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), "http", nil, ""},
		{"http 1.0", says("HTTP/1.0 204 No Content\r\n\r\n"), "http", nil, ""},
		{"redirect", says("HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n"), "http", nil, ""},
		{"interim", says("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "http", nil, ""},
		{"only interim", says(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 9)), "http", nil, "ADDRESS answered GET /up?a=b with something that is not HTTP: more than 5 interim answers"},
		{"body without end", endless, "http", nil, ""},
		{"body that stalls", func(c net.Conn) { says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")(c); silent(c) }, "http", nil, ""},
		{"500", says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"), "http", nil, "ADDRESS answered GET /up?a=b with 500 Internal Server Error, wanted 200–399"},
		{"404 is wanted", says("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n"), "http", []int{200, 404}, ""},
		{"204 is not", says("HTTP/1.1 204 x\r\n\r\n"), "http", []int{200, 404, 418}, "ADDRESS answered GET /up?a=b with 204 No Content, wanted 200, 404 or 418"},
		{"unheard of", says("HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n"), "http", []int{200}, "ADDRESS answered GET /up?a=b with 599, wanted 200"},
		{"slow", silent, "http", nil, "ADDRESS did not answer GET /up?a=b within 300ms"},
		{"slow header", func(c net.Conn) { says("HTTP/1.1 200 OK\r\nA: b\r\n")(c); silent(c) }, "http", nil, "ADDRESS did not answer GET /up?a=b within 300ms"},
		{"closes", says(""), "http", nil, "ADDRESS closed the connection without an answer to GET /up?a=b"},
		{"resets", func(c net.Conn) { says("")(c); _ = c.(*net.TCPConn).SetLinger(0) }, "http", nil, "ADDRESS reset the connection instead of answering GET /up?a=b"},
		{"other protocol", says("SSH-2.0-OpenSSH_9.9\r\n"), "http", nil, `ADDRESS answered GET /up?a=b with something that is not HTTP: malformed HTTP response "SSH-2.0-OpenSSH_9.9"`},
		{"long header", says("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 70_000) + "\r\n\r\n"), "http", nil, "ADDRESS answered GET /up?a=b with a header longer than 64 KiB"},
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, tt := range tests {
			t.Run(address+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				to := listen(t, address, tt.serve)
				got := probeOnce(t, to, model.HealthCheck{Type: tt.kind, Path: "/up?a=b", Status: tt.status, Interval: time.Second, Timeout: 300 * time.Millisecond})
				if want := strings.ReplaceAll(tt.want, "ADDRESS", to.String()); got != want {
					t.Errorf("%q, want %q", got, want)
				}
			})
		}
	}
}

// probeOnce is the reason of one check.
func probeOnce(t *testing.T, to netip.AddrPort, h model.HealthCheck) string {
	t.Helper()
	q := newQuestion(h)
	ctx, cancel := context.WithTimeout(t.Context(), q.Timeout)
	defer cancel()
	begun := time.Now()
	err := New(Config{}).probe(ctx, to, q)
	if took := time.Since(begun); took > q.Timeout+5*time.Second {
		t.Errorf("took %s", took)
	}
	if err != nil {
		return words(err, to, q)
	}
	return ""
}

// A replica that is removed while it is asked is let go at once.
func TestProbeEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{})
	to := listen(t, "127.0.0.1:0", func(c net.Conn) { close(asked); silent(c) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	go func() { <-asked; cancel() }()
	if err := New(Config{}).probe(ctx, to, newQuestion(model.HealthCheck{Type: "http"})); err == nil {
		t.Error("it passed")
	}
}

func TestRequest(t *testing.T) {
	heads := make(chan string, 1)
	to := listen(t, "127.0.0.1:0", func(c net.Conn) {
		b := make([]byte, 1000)
		n, _ := c.Read(b)
		heads <- string(b[:n])
	})
	probeOnce(t, to, model.HealthCheck{Type: "http", Path: "/a b\r\nX: y"})
	want := "GET /a%20b%0D%0AX:%20y HTTP/1.1\r\nHost: " + to.String() + "\r\nUser-Agent: fairlead-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if got := <-heads; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	q := newQuestion(model.HealthCheck{Type: "http", Path: "/"})
	for to, host := range map[string]string{"10.0.0.1:80": "10.0.0.1", "[fd00::1]:80": "[fd00::1]", "[fd00::1]:81": "[fd00::1]:81"} {
		if got := string(q.request(netip.MustParseAddrPort(to))); !strings.HasPrefix(got, "GET / HTTP/1.1\r\nHost: "+host+"\r\n") {
			t.Errorf("%s: %q", to, got)
		}
	}
}

// A TCP check ends in order, and sends nothing.
func TestTCPCheckClosesInOrder(t *testing.T) {
	ends := make(chan error, 1)
	to := listen(t, "127.0.0.1:0", func(c net.Conn) {
		n, err := c.Read(make([]byte, 1))
		if n > 0 {
			err = errors.New("it sent something")
		}
		ends <- err
	})
	if got := probeOnce(t, to, model.HealthCheck{Type: "tcp"}); got != "" {
		t.Error(got)
	}
	if err := <-ends; err != io.EOF {
		t.Errorf("the replica saw %v", err)
	}
}

// A listener whose process hangs fills its queue; then connections time out.
// Until then the kernel answers for the process, and only HTTP sees through it.
func TestHangingAccept(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*syscall.SockaddrInet4).Port))
	h := model.HealthCheck{Type: "http", Path: "/", Timeout: 200 * time.Millisecond}
	if got, want := probeOnce(t, to, h), to.String()+" did not answer GET / within 200ms"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for range 5 { // fill what is left of the queue
		if c, err := net.DialTimeout("tcp", to.String(), 50*time.Millisecond); err == nil {
			defer c.Close()
		}
	}
	h.Type = "tcp"
	if got, want := probeOnce(t, to, h), "no connection to "+to.String()+" within 200ms"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestListenerComesAndGoes is the whole way with real sockets.
func TestListenerComesAndGoes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	spare := listen(t, "127.0.0.2:"+address[strings.LastIndex(address, ":")+1:], silent)
	c := New(Config{Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	parts, done := make(chan string, 100), make(chan error, 1)
	go func() { done <- c.Run(ctx, func(p source.Part) { parts <- describe(p) }) }()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-parts:
			if got != want {
				t.Fatalf("published %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing published, want %q", want)
		}
	}
	expect("")
	s := ports(svc("a", "127.0.0.1", "127.0.0.2"), int(spare.Port()))
	s.Health.Interval, s.Health.Timeout = 20*time.Millisecond, 20*time.Millisecond
	s.Health.Fall = 5
	if err := c.Apply(ctx, state(s)); err != nil {
		t.Fatal(err)
	}
	l.Close()
	expect("p/a " + address + " down")
	if l, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	expect("")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWordsOfConnecting(t *testing.T) {
	to := netip.MustParseAddrPort("10.1.0.3:8090")
	q := newQuestion(model.HealthCheck{Type: "tcp"})
	for err, want := range map[error]string{
		syscall.ECONNREFUSED:     "connection refused on 10.1.0.3:8090",
		syscall.ECONNRESET:       "connection reset by 10.1.0.3:8090",
		syscall.EHOSTUNREACH:     "host 10.1.0.3 is unreachable",
		syscall.ENETUNREACH:      "no route to 10.1.0.3",
		syscall.EACCES:           "connect to 10.1.0.3:8090: permission denied",
		context.DeadlineExceeded: "no connection to 10.1.0.3:8090 within 1s",
	} {
		if got := words(&stage{err: &net.OpError{Op: "dial", Err: err}}, to, q); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// FuzzAnswer: whatever a replica sends, the check ends, and what is said of it
// is one short line.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 500 x\r\n\r\n", "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "SSH-2.0-x\r\n", "\x00\x1b[31m\n", "HTTP/1.1 200 OK\r\nA\x1b: b\r\n\r\n", "",
	} {
		f.Add([]byte(s))
	}
	to := netip.MustParseAddrPort("10.1.0.3:8090")
	q := newQuestion(model.HealthCheck{Type: "http", Path: "/"})
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := &scripted{Reader: bytes.NewReader(sent)}
		err := ask(t.Context(), conn, to, q)
		if err == nil {
			return
		}
		text := words(&stage{asked: true, err: err}, to, q)
		if len(text) > 300 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q", text)
		}
	})
}

// scripted is a connection to a replica that has sent all it will.
type scripted struct {
	net.Conn
	io.Reader
}

func (s *scripted) Read(b []byte) (int, error)  { return s.Reader.Read(b) }
func (s *scripted) Write(b []byte) (int, error) { return len(b), nil }
func (s *scripted) SetDeadline(time.Time) error { return nil }
func (s *scripted) Close() error                { return nil }
