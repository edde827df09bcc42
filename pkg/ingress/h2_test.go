// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// client2 is a client that speaks HTTP/2 to the front, over TLS for hosts of
// an authority, else in cleartext.
func (f *fixture) client2(a *authority) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	addr := ""
	if a == nil {
		tr.Protocols.SetUnencryptedHTTP2(true)
		addr = f.addr()
	} else {
		tr.Protocols.SetHTTP2(true)
		tr.TLSClientConfig = &tls.Config{RootCAs: a.pool()}
		addr = f.tlsAddr()
	}
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: long, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func fetch(t *testing.T, c *http.Client, url string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestHTTP2Clients(t *testing.T) {
	a := newAuthority(t, "h.test")
	var got http.Header
	var uri, proto string
	h := func(w http.ResponseWriter, r *http.Request) {
		got, uri, proto = r.Header, r.RequestURI, r.Proto
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", "1")
	}
	plain := on("b", "plain.test", "/", backend(t, h))
	f := newFixture(t, Config{Certificates: a}, secured(on("a", "h.test", "/a", backend(t, h))), plain)
	for name, c := range map[string]*http.Client{"https://h.test": f.client2(a), "http://plain.test": f.client2(nil)} {
		scheme, host, _ := strings.Cut(name, "://")
		req, _ := http.NewRequest("POST", name+"/a//b%2Fc?x=%20y", strings.NewReader("hello"))
		req.Header.Set("X-Forwarded-For", "6.6.6.6")
		req.Header.Set("X-Request-Id", "evil")
		req.Header.Set("Forwarded", "for=evil")
		req.Header.Set("X_Forwarded_For", "evil")
		req.Header.Set("Cookie", "c=d")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.ProtoMajor != 2 || string(body) != "hello" || res.Trailer.Get("X-Sum") != "1" {
			t.Errorf("%s: %s %s %q, trailer %v", name, res.Proto, res.Status, body, res.Trailer)
		}
		if proto != "HTTP/1.1" || uri != "/a//b%2Fc?x=%20y" || got.Get("X-Forwarded-For") != "127.0.0.1" || got.Get("X-Forwarded-Proto") != scheme ||
			got.Get("X-Forwarded-Host") != host || len(got.Get("X-Request-Id")) != uuidLen || len(got.Get("Traceparent")) != 55 || got.Get("Cookie") != "c=d" ||
			got.Get("Forwarded") != "" || got.Get("X_forwarded_for") != "" || len(got["X_forwarded_for"]) > 0 {
			t.Errorf("%s: the replica got %s %s %v", name, proto, uri, got)
		}
	}
	c := f.client2(a)
	if res, body := fetch(t, c, "https://h.test/", "Accept", "application/json"); res.StatusCode != 404 || !strings.Contains(body, `"requestId"`) {
		t.Errorf("%s %s", res.Status, body)
	}
	if res, _ := fetch(t, f.client2(nil), "http://h.test/a/x"); res.StatusCode != 308 || res.Header.Get("Location") != "https://h.test/a/x" {
		t.Errorf("%s to %s", res.Status, res.Header.Get("Location"))
	}
	if res, _ := fetch(t, c, "https://h.test/a/../b"); res.StatusCode != 400 {
		t.Errorf("ambiguous path: %s", res.Status)
	}
}

func TestHTTP2StreamsAndConcurrency(t *testing.T) {
	at := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.(http.Flusher).Flush()
		_, _ = io.Copy(flushing{w}, r.Body)
	})
	f := newFixture(t, Config{}, on("a", "h", "/", at))
	c := f.client2(nil)
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", "http://h/", pr)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, s := range []string{"one", "two"} {
		_, _ = io.WriteString(pw, s)
		b := make([]byte, 3)
		if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != s {
			t.Fatalf("%q, %v", b, err)
		}
	}
	_ = pw.Close()
	done := make(chan error, 50)
	for i := range cap(done) {
		go func() {
			want := strings.Repeat(fmt.Sprint(i), 10_000)
			res, err := c.Post("http://h/", "text/plain", strings.NewReader(want))
			if err == nil {
				var b []byte
				b, err = io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err == nil && string(b) != want {
					err = fmt.Errorf("%d bytes came back, not those sent", len(b))
				}
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

type flushing struct{ http.ResponseWriter }

func (w flushing) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// grpcFrame is a message as gRPC frames it.
func grpcFrame(s string) []byte { return append([]byte{0, 0, 0, 0, byte(len(s))}, s...) }

// grpcBackend echoes messages over HTTP/2, in cleartext or over TLS.
func grpcBackend(t *testing.T, cert *tls.Certificate) netip.AddrPort {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" {
			t.Errorf("the replica got %s, te %q", r.Proto, r.Header.Get("Te"))
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.(http.Flusher).Flush()
		_, _ = io.Copy(flushing{w}, r.Body)
		w.Header().Set("Grpc-Status", "0")
	}))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	if cert != nil {
		srv.Config.Protocols.SetHTTP2(true)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2"}}
		srv.EnableHTTP2 = true
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	return netip.MustParseAddrPort(srv.Listener.Addr().String())
}

func TestGRPCStreamsToTheReplica(t *testing.T) {
	a := newAuthority(t, "tls.test")
	overTLS := on("tls", "h", "/tls", grpcBackend(t, a.leaf("h")))
	overTLS.HTTP[0].Paths[0].BackendTLS = model.BackendTLS{Mode: "on"}
	f := newFixture(t, Config{Certificates: a}, on("a", "h", "/echo", grpcBackend(t, nil)), overTLS, on("dead", "h", "/dead", closedPort(t)),
		secured(on("t", "tls.test", "/echo", grpcBackend(t, nil))))
	call := func(c *http.Client, url string) (*http.Response, *io.PipeWriter) {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", url, pr)
		req.Header.Set("Content-Type", "application/grpc+proto")
		req.Header.Set("Te", "trailers")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return res, pw
	}
	plain := f.client2(nil)
	for url, c := range map[string]*http.Client{"http://h/echo/x": plain, "http://h/tls/x": plain, "https://tls.test/echo/x": f.client2(a)} {
		res, pw := call(c, url)
		for _, s := range []string{"one", "two", "three"} {
			_, _ = pw.Write(grpcFrame(s))
			b := make([]byte, 5+len(s))
			if _, err := io.ReadFull(res.Body, b); err != nil || !bytes.Equal(b, grpcFrame(s)) {
				t.Fatalf("%s: %q, %v", url, b, err)
			}
		}
		_ = pw.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 || res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%s: %q, %v, trailer %v", url, rest, err, res.Trailer)
		}
		_ = res.Body.Close()
	}
	res, pw := call(plain, "http://h/dead/x")
	defer pw.Close()
	if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != "14" || !strings.Contains(res.Header.Get("Grpc-Message"), "nothing%20listens") {
		t.Errorf("%s %v, want UNAVAILABLE", res.Status, res.Header)
	}
	_ = res.Body.Close()
	if res, _ := call(plain, "http://nobody/x"); res.Header.Get("Grpc-Status") != "12" {
		t.Errorf("%v, want UNIMPLEMENTED", res.Header)
	}
}

func TestHTTP2DeadReplicaIsPassedOver(t *testing.T) {
	at := backend(t, named("one"))
	f := newFixture(t, Config{}, on("a", "h", "/", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port()), at))
	c := f.client2(nil)
	for range 20 {
		res, err := c.Post("http://h/", "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(body) != "one POST / x" {
			t.Fatalf("%s %q", res.Status, body)
		}
	}
}

// TestH2spec runs the conformance suite against both listeners.
func TestH2spec(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "h2spec")
	build := exec.Command("go", "build", "-modfile=tools/go.mod", "-o", bin, "github.com/summerwind/h2spec/cmd/h2spec")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build h2spec: %v\n%s", err, out)
	}
	a := newAuthority(t, "localhost")
	f := newFixture(t, Config{Certificates: a}, secured(on("a", "localhost", "/", backend(t, named("one")))), on("b", "127.0.0.1", "/", backend(t, named("one"))))
	// By name over TLS; in cleartext by address, as localhost is redirected.
	runs := map[string][]string{
		"TLS":       {"--tls", "--insecure", "--host", "localhost", "--port", port(f.tlsAddr())},
		"cleartext": {"--host", "127.0.0.1", "--port", port(f.addr())},
	}
	// Where net/http, or the port being one of HTTP/1.1, too, differs.
	explained := map[string]string{
		"Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                        "net/http ends connections whose SETTINGS have a value twice",
		"Sends a HEADERS frame that contains the connection-specific header field":                     "net/http answers 400 in place of a reset",
		`Sends a HEADERS frame that contains the TE header field with any value other than "trailers"`: "the same",
		"Sends invalid connection preface":                                                             "on a cleartext port it is a bad request of HTTP/1.1, and is answered",
	}
	var wg sync.WaitGroup
	for name, args := range runs {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			out, _ := exec.CommandContext(ctx, bin, append(args, "--timeout", "2")...).CombinedOutput()
			sum := regexp.MustCompile(`(\d+) tests, (\d+) passed`).FindSubmatch(out)
			if sum == nil {
				t.Errorf("%s: h2spec says\n%s", name, out)
				return
			}
			if n, _ := strconv.Atoi(string(sum[1])); n < 140 {
				t.Errorf("%s: %d tests ran", name, n)
			}
			_, report, _ := bytes.Cut(out, []byte("Failures:"))
			for _, m := range regexp.MustCompile(`(?m)^ *× \d+: (.*)$`).FindAllSubmatch(report, -1) {
				if explained[string(m[1])] == "" {
					t.Errorf("%s: %s\n%s", name, m[1], report)
				}
			}
		})
	}
	wg.Wait()
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}
