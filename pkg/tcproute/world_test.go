// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
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

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/tcproute/tcptest"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(idleClients); addr != "" {
		if err := playIdle(addr); err != nil {
			slog.Error("idle clients", "error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

var _ reconcile.Target = (*Router)(nil)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// authority is a tcptest.Authority that ends the test on an error.
type authority struct{ *tcptest.Authority }

func newAuthority(t testing.TB) authority {
	t.Helper()
	a, err := tcptest.NewAuthority()
	must(t, err)
	return authority{a}
}

func (a authority) issue(t testing.TB, host string) tls.Certificate {
	t.Helper()
	c, err := a.Issue(host)
	must(t, err)
	return c
}

// file writes the authority's certificate.
func (a authority) file(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(path, a.PEM, 0o600))
	return path
}

// server is a replica: it says its name on every connection, then echoes.
type server struct {
	name string
	l    net.Listener
	addr netip.AddrPort

	mu    sync.Mutex
	conns []net.Conn
	wg    sync.WaitGroup
	heads chan string // what came before TLS or the echo, where greet is set
}

// serve starts a replica. greet, if set, has the connection first and returns
// the one to speak on.
func serve(t testing.TB, ip, name string, port uint16, greet func(net.Conn) (net.Conn, error)) *server {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(ip), port).String())
	must(t, err)
	s := &server{name: name, l: l, addr: l.Addr().(*net.TCPAddr).AddrPort(), heads: make(chan string, 100)}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				in := c
				if greet != nil {
					if in, err = greet(c); err != nil {
						return
					}
				}
				if _, err := io.WriteString(in, name+"\n"); err != nil {
					return
				}
				_, _ = io.Copy(in, in)
				if h, ok := in.(conn.HalfCloser); ok {
					_ = h.CloseWrite()
				}
			})
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) stop() {
	_ = s.l.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// overTLS greets with TLS; Postgres servers after an SSLRequest.
func overTLS(cert tls.Certificate, postgres bool) func(net.Conn) (net.Conn, error) {
	return func(c net.Conn) (net.Conn, error) {
		if postgres {
			b := make([]byte, 8)
			if _, err := io.ReadFull(c, b); err != nil || !bytes.Equal(b, sslRequest) {
				return nil, errors.New("no SSLRequest")
			}
			if _, err := c.Write([]byte{'S'}); err != nil {
				return nil, err
			}
		}
		t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{alpnPostgres}})
		return t, t.Handshake()
	}
}

// world is a router with what it needs around it.
type world struct {
	*Router
	t     testing.TB
	ca    authority
	certs *tcptest.Held
	log   *logBuffer
	state *model.State
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func newWorld(t testing.TB, adjust func(*Config)) *world {
	t.Helper()
	w := &world{t: t, ca: newAuthority(t), certs: &tcptest.Held{}, log: &logBuffer{}}
	cfg := Config{Log: slog.New(slog.NewTextHandler(w.log, nil)), Certificates: w.certs}
	if adjust != nil {
		adjust(&cfg)
	}
	r, err := New(cfg)
	must(t, err)
	w.Router = r
	t.Cleanup(func() { _ = r.Close() })
	return w
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var name1 = model.ServiceName{Project: "p", User: "u"}

// service is one with a name of a kind and the given replicas.
func service(kind Kind, host, mode string, backends ...model.Backend) model.Service {
	n := model.TCPName{Host: host, Kind: string(kind), TLS: mode}
	return model.Service{
		Name: name1, Ports: []model.Port{{Service: n.ServicePort(), Container: n.ServicePort(), Protocol: model.TCP}},
		Backends: backends, TCPNames: []model.TCPName{n}, Drain: time.Hour,
	}
}

func backend(s *server) model.Backend {
	b := model.Backend{Weight: 1}
	if a := s.addr.Addr().Unmap(); a.Is4() {
		b.Addr4 = a
	} else {
		b.Addr6 = a
	}
	return b
}

// apply has the router serve; the container port becomes that of port.
func (w *world) apply(port uint16, services ...model.Service) {
	w.t.Helper()
	s := &model.State{Generation: 1}
	if w.state != nil {
		s.Generation, s.Settings = w.state.Generation+1, w.state.Settings
	}
	if s.Settings.Listen.Postgres == "" {
		s.Settings.Listen = model.Listen{Postgres: "127.0.0.1:0", Mongo: "127.0.0.1:0", Redis: "127.0.0.1:0"}
	}
	for _, svc := range services {
		svc.Ports = slices.Clone(svc.Ports)
		for j := range svc.Ports {
			svc.Ports[j].Container = port
		}
		s.Services = append(s.Services, &svc)
	}
	w.state = s
	must(w.t, w.Apply(w.t.Context(), s))
}

// dial connects to the router.
func (w *world) dial(k Kind) *net.TCPConn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.Addr(k).String())
	must(w.t, err)
	must(w.t, c.SetDeadline(time.Now().Add(patience)))
	w.t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// tls connects by TLS with a name; for Postgres by SSLRequest.
func (w *world) tls(k Kind, host string) (*tls.Conn, error) {
	w.t.Helper()
	c := w.dial(k)
	if k == Postgres {
		_, err := c.Write(sslRequest)
		must(w.t, err)
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil || b[0] != 'S' {
			w.t.Fatalf("answer to SSLRequest: %q, %v", b, err)
		}
	}
	t := tls.Client(c, &tls.Config{ServerName: host, RootCAs: w.ca.Pool})
	err := t.Handshake()
	if err != nil {
		_ = c.Close() // or the router waits a second for it
	}
	return t, err
}

// talk expects the replica's name and an echo.
func talk(t testing.TB, c net.Conn) (replica string) {
	t.Helper()
	line := make([]byte, 0, 64)
	for len(line) == 0 || line[len(line)-1] != '\n' {
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatalf("read the replica's name: %q, %v", line, err)
		}
		line = append(line, b[0])
	}
	_, err := io.WriteString(c, "ping")
	must(t, err)
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
		t.Fatalf("echo %q, %v", b, err)
	}
	return strings.TrimSpace(string(line))
}

// count is how many connections of a kind had a result.
func (w *world) count(k Kind, res Result) uint64 {
	for _, c := range w.Counts() {
		if c.Kind == k.Label() && c.Result == res {
			return c.N
		}
	}
	return 0
}

// eventually polls.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

func alertOf(err error) tls.AlertError {
	var a tls.AlertError
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		// crypto/tls has no exported type for a remote alert outside QUIC; the
		// text has the name.
		for _, n := range []uint8{alertUnrecognizedName, alertInternalError, alertAccessDenied, alertDecodeError} {
			if strings.Contains(err.Error(), tls.AlertError(n).Error()) {
				return tls.AlertError(n)
			}
		}
	}
	errors.As(err, &a)
	return a
}

func contextWithCancel(t testing.TB) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}
