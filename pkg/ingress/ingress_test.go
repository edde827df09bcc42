// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ reconcile.Target = (*Target)(nil)

// long is how long a test waits for what should come at once.
const long = 20 * time.Second

// fixture is a front on loopback with a state that tests change.
type fixture struct {
	*Target
	t     *testing.T
	state *model.State
}

func newFixture(t *testing.T, cfg Config, services ...model.Service) *fixture {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Limits.Tick == 0 {
		cfg.Limits.Tick = 10 * time.Millisecond
	}
	f := &fixture{Target: New(cfg), t: t, state: &model.State{}}
	f.state.Settings.Listen.HTTP = "127.0.0.1:0"
	f.state.Settings.Listen.HTTPS = "127.0.0.1:0"
	t.Cleanup(f.Close)
	f.serve(services...)
	return f
}

// serve replaces the services.
func (f *fixture) serve(services ...model.Service) {
	f.t.Helper()
	var all []*model.Service
	for _, svc := range services {
		all = append(all, &svc)
	}
	f.apply(all)
}

// apply has the front serve these.
func (f *fixture) apply(services []*model.Service) {
	f.t.Helper()
	s := &model.State{Generation: f.state.Generation + 1, Settings: f.state.Settings, Services: services}
	if err := f.Apply(context.Background(), s); err != nil {
		f.t.Fatal(err)
	}
	f.state = s
}

// counts waits until what is counted of a service is as wanted: a request counts
// when its session is through with it, which may be after its answer arrived.
func (f *fixture) counts(service string, wanted func(Count) bool) {
	f.t.Helper()
	for deadline := time.Now().Add(long); ; time.Sleep(time.Millisecond) {
		all := f.Counts()
		if i := slices.IndexFunc(all, func(c Count) bool { return c.Service == service }); i >= 0 && wanted(all[i]) {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("counted %+v", all)
		}
	}
}

func (f *fixture) addr() string {
	plain, _ := f.Addrs()
	return plain.String()
}

func (f *fixture) tlsAddr() string {
	_, secure := f.Addrs()
	return secure.String()
}

// backend starts a server for a handler.
func backend(t *testing.T, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return netip.MustParseAddrPort(srv.Listener.Addr().String())
}

// on is a service "p/USER" of a host, with the given path, at the addresses.
// All addresses have the port of the first.
func on(user, host, path string, at ...netip.AddrPort) model.Service {
	svc := model.Service{Name: model.ServiceName{Project: "p", User: user}}
	svc.Ports = []model.Port{{Service: 80, Container: 80, Protocol: model.TCP}}
	for _, a := range at {
		svc.Ports[0].Container = a.Port()
		svc.Backends = append(svc.Backends, model.Backend{Addr4: a.Addr(), Weight: 1})
	}
	svc.HTTP = []model.HTTPHost{{Host: host, Paths: []model.HTTPPath{{Path: path, ServicePort: 80, BackendTLS: model.BackendTLS{Mode: "off"}}}}}
	return svc
}

// raw is a connection to the front on which a test writes bytes.
type raw struct {
	net.Conn
	r *bufio.Reader
	t *testing.T
}

func (f *fixture) dial() *raw {
	f.t.Helper()
	c, err := net.Dial("tcp", f.addr())
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(long))
	return &raw{c, bufio.NewReader(c), f.t}
}

func (c *raw) send(s string) *raw {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// response reads one with its body.
func (c *raw) response(method string) (*http.Response, string) {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("read body: %v after %q", err, body)
	}
	return res, string(body)
}

func (c *raw) ended() {
	c.t.Helper()
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 {
		c.t.Errorf("want the end of the connection, got %q, %v", b, err)
	}
}

// get asks once, on a connection of its own.
func (f *fixture) get(host, target string, header ...string) (*http.Response, string) {
	f.t.Helper()
	lines := strings.Join(header, "\r\n")
	if lines != "" {
		lines += "\r\n"
	}
	return f.dial().send("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + lines + "Connection: close\r\n\r\n").response("GET")
}

// named answers with its name and what it was asked for.
func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", name, r.Method, r.RequestURI, body)
	}
}

func TestA14RequestIsForwarded(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "shop.example.com", "/", backend(t, named("one"))))
	for _, host := range []string{"shop.example.com", "SHOP.example.com.", "shop.example.com:8080"} {
		if res, body := f.get(host, "/x?y=z"); res.StatusCode != 200 || body != "one GET /x?y=z " {
			t.Errorf("%s: %d %q", host, res.StatusCode, body)
		}
	}
}

func TestKeepAliveAndPipelining(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, named("one"))))
	c := f.dial()
	for i := range 5 {
		c.send(fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", i))
		if res, body := c.response("POST"); body != fmt.Sprintf("one POST /%d abc", i) || res.Close {
			t.Fatalf("%q, close %v", body, res.Close)
		}
	}
	c.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /c HTTP/1.1\r\nHo")
	for _, want := range []string{"one GET /a ", "one POST /b abc"} {
		if _, body := c.response("GET"); body != want {
			t.Fatalf("%q, want %q", body, want)
		}
	}
	c.send("st: h\r\nConnection: close\r\n\r\n")
	if res, body := c.response("GET"); body != "one GET /c " || !res.Close {
		t.Errorf("%q, close %v", body, res.Close)
	}
	c.ended()
}

func TestA16LongestPrefixOfWholeSegments(t *testing.T) {
	f := newFixture(t, Config{},
		on("root", "h", "/", backend(t, named("root"))),
		on("web", "h", "/web", backend(t, named("web"))),
		on("deep", "h", "/web/deep", backend(t, named("deep"))),
		on("only", "only", "/app", backend(t, named("only"))),
		on("ru", "h", "/тест", backend(t, named("ru"))),
	)
	for target, want := range map[string]string{
		"/": "root GET / ", "/webx": "root GET /webx ", "/web": "web GET /web ", "/web/": "web GET /web/ ", "/web?a": "web GET /web?a ",
		"/web/deeper": "web GET /web/deeper ", "/web/deep/x": "deep GET /web/deep/x ", "/%D1%82%D0%B5%D1%81%D1%82/x": "ru GET /%D1%82%D0%B5%D1%81%D1%82/x ",
		"/w%65b/x": "web GET /w%65b/x ", "/" + strings.Repeat("x/", 500): "root GET /" + strings.Repeat("x/", 500) + " ",
	} {
		if _, body := f.get("h", target); body != want {
			t.Errorf("%.60s: %.60q, want %.60q", target, body, want)
		}
	}
	for target, want := range map[string]int{"/": 404, "/app/x": 200, "/apps": 404} {
		if res, _ := f.get("only", target); res.StatusCode != want {
			t.Errorf("%s: %d, want %d", target, res.StatusCode, want)
		}
	}
	// What resolves to another service's path is nobody's.
	for _, target := range []string{"/web/../x", "/x/../web", "/web/%2e%2e/x", "//web", "/./web", "/web/%00", "/web/%zz"} {
		if res, _ := f.get("h", target); res.StatusCode != 400 {
			t.Errorf("%s: %d, want 400", target, res.StatusCode)
		}
	}
	if _, body := f.get("h", "/web/a/../b"); body != "web GET /web/a/../b " {
		t.Errorf("%q", body)
	}
}

func TestD08HeadersToTheReplica(t *testing.T) {
	var got http.Header
	var host string
	h := func(w http.ResponseWriter, r *http.Request) {
		got, host = r.Header, r.Host
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.Header().Set("X-End", "2")
	}
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, h)))
	res, _ := f.get("h:8080", "/", "X-Forwarded-For: 6.6.6.6", "X-Forwarded-Host: evil", "X-Forwarded-Proto: https", "X-Request-ID: evil",
		"Forwarded: for=evil", "X-Real-IP: 6.6.6.6", "X_Forwarded_For: evil", "Connection: X-Request-ID, X-Secret", "X-Secret: s", "Cookie: c")
	if res.Header.Get("X-Hop") != "" || res.Header.Get("X-End") != "2" {
		t.Errorf("answer has %v", res.Header)
	}
	if host != "h:8080" || got.Get("X-Forwarded-Host") != "h:8080" || got.Get("X-Forwarded-Proto") != "http" ||
		got.Get("X-Forwarded-For") != "127.0.0.1" || len(got.Get("X-Request-Id")) != uuidLen || got.Get("Cookie") != "c" {
		t.Errorf("replica got %v", got)
	}
	if len(got.Get("Traceparent")) != 55 {
		t.Errorf("traceparent %q", got.Get("Traceparent"))
	}
	for _, name := range []string{"Forwarded", "X-Real-Ip", "X_forwarded_for", "X-Secret", "Connection"} {
		if v, there := got[name]; there {
			t.Errorf("replica got %s: %q", name, v)
		}
	}
	if _, _ = f.get("h", "/", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"); got.Get("Traceparent") != "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" {
		t.Errorf("traceparent %q", got.Get("Traceparent"))
	}
	f.state.Settings.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	f.apply(f.state.Services)
	f.get("h", "/", "X-Forwarded-For: 6.6.6.6, 7.7.7.7", "X-Forwarded-Host: front", "X-Forwarded-Proto: https", "X-Request-ID: id-1", "Forwarded: for=x")
	if got.Get("X-Forwarded-For") != "6.6.6.6, 7.7.7.7, 127.0.0.1" || got.Get("X-Forwarded-Host") != "front" ||
		got.Get("X-Forwarded-Proto") != "https" || got.Get("X-Request-Id") != "id-1" || got.Get("Forwarded") != "for=x" {
		t.Errorf("of a trusted proxy: %v", got)
	}
}

func TestBodiesStream(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	h := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(len(big)))
			w.Header().Del("Trailer")
		}
		_ = http.NewResponseController(w).EnableFullDuplex()
		n, err := io.Copy(w, r.Body)
		w.Header().Set("X-Sum", fmt.Sprint(n, err, r.Trailer.Get("X-In")))
	}
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, h)))
	c := f.dial()
	for _, path := range []string{"/chunked", "/length"} {
		go func() {
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", path, len(big))
			_, _ = c.Write(big)
		}()
		res, body := c.response("POST")
		if body != string(big) {
			t.Fatalf("%s: %d bytes of %d", path, len(body), len(big))
		}
		if sum := res.Trailer.Get("X-Sum"); path == "/chunked" && sum != fmt.Sprint(len(big), nil) {
			t.Errorf("trailer %q", sum)
		}
	}
	go func() {
		_, _ = io.WriteString(c, "POST /chunked HTTP/1.1\r\nHost: h\r\nTrailer: X-In\r\nTransfer-Encoding: chunked\r\n\r\n")
		for b := big; len(b) > 0; b = b[1<<12:] {
			fmt.Fprintf(c, "1000\r\n%s\r\n", b[:1<<12])
		}
		_, _ = io.WriteString(c, "0\r\nX-In: in\r\n\r\nGET /after HTTP/1.1\r\nHost: h\r\n\r\n")
	}()
	res, body := c.response("POST")
	if body != string(big) || res.Trailer.Get("X-Sum") != fmt.Sprint(len(big), nil, "in") {
		t.Fatalf("%d bytes, trailer %q", len(body), res.Trailer.Get("X-Sum"))
	}
	if res, _ := c.response("GET"); res.StatusCode != 200 {
		t.Error(res.Status)
	}
}

func TestHTTP10(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/chunked" {
			w.(http.Flusher).Flush()
		}
		_, _ = io.WriteString(w, "hello")
	})))
	c := f.dial().send("GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
	if res, body := c.response("GET"); body != "hello" || res.Header.Get("Connection") != "keep-alive" {
		t.Errorf("%q %v", body, res.Header)
	}
	c.send("GET /chunked HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
	if res, body := c.response("GET"); body != "hello" || len(res.TransferEncoding) > 0 {
		t.Errorf("%q %v", body, res.TransferEncoding)
	}
	c.ended()
}

func TestA11TheFirstKeepsARoute(t *testing.T) {
	first, second := on("a", "h", "/x", backend(t, named("one"))), on("b", "H.", "/x", backend(t, named("two")))
	second.HTTP[0].Paths = append(second.HTTP[0].Paths, model.HTTPPath{Path: "/y", ServicePort: 80})
	f := newFixture(t, Config{}, first)
	s := &model.State{Generation: 2, Settings: f.state.Settings, Services: []*model.Service{&first, &second}}
	err := f.Apply(t.Context(), s)
	if want := "h/x is asked for by p/b and stays with p/a"; err == nil || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	for target, want := range map[string]string{"/x": "one GET /x ", "/y": "two GET /y "} {
		if _, body := f.get("h", target); body != want {
			t.Errorf("%s: %q, want %q", target, body, want)
		}
	}
}

// A service port without TCP, and one that is not there, are told of.
func TestNoSuchPort(t *testing.T) {
	svc := on("a", "h", "/", backend(t, named("one")))
	svc.HTTP[0].Paths[0].ServicePort = 81
	f := newFixture(t, Config{}, svc)
	if res, body := f.get("h", "/"); res.StatusCode != 502 || !strings.Contains(body, "has no TCP port 81") {
		t.Errorf("%s %s", res.Status, body)
	}
}
