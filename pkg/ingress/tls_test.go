// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// secured is a service that asks for a certificate.
func secured(svc model.Service) model.Service {
	svc.HTTP[0].TLS, svc.HTTP[0].Redirect = true, true
	return svc
}

// dialTLS is a connection for a server name, which speaks HTTP/1.1.
func (f *fixture) dialTLS(a *authority, name string, protos ...string) *raw {
	f.t.Helper()
	c, err := tls.Dial("tcp", f.tlsAddr(), &tls.Config{ServerName: name, RootCAs: a.pool(), NextProtos: protos})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(long))
	return &raw{c, bufio.NewReader(c), f.t}
}

func TestA15HTTPUntilTheCertificateIsThere(t *testing.T) {
	a := newAuthority(t)
	f := newFixture(t, Config{Certificates: a}, secured(on("a", "h.test", "/", backend(t, named("one")))))
	if res, body := f.get("h.test", "/x"); res.StatusCode != 200 || body != "one GET /x " {
		t.Fatalf("%s %q", res.Status, body)
	}
	if err := alertOf(f.tlsAddr(), "h.test"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("%v", err)
	}
	a.mu.Lock()
	a.token = "tok"
	a.mu.Unlock()
	if res, body := f.get("anything.test", "/.well-known/acme-challenge/tok"); res.StatusCode != 200 || body != "tok.thumbprint" {
		t.Errorf("challenge: %s %q", res.Status, body)
	}
	a.issue("h.test")
	res, _ := f.get("H.test:80", "/x?y")
	_, port, _ := net.SplitHostPort(f.state.Settings.Listen.HTTPS)
	if want := "https://h.test/x?y"; port == "0" && (res.StatusCode != 301 || res.Header.Get("Location") != want) {
		t.Errorf("%s to %q, want 301 to %q", res.Status, res.Header.Get("Location"), want)
	}
	if res, body := f.get("h.test", "/.well-known/acme-challenge/tok"); res.StatusCode != 200 || body != "tok.thumbprint" {
		t.Errorf("challenge behind the redirect: %s %q", res.Status, body)
	}
	if res, _ := f.dial().send("POST / HTTP/1.1\r\nHost: h.test\r\nContent-Length: 0\r\n\r\n").response("POST"); res.StatusCode != 308 {
		t.Errorf("POST: %s, want 308", res.Status)
	}
	c := f.dialTLS(a, "h.test")
	for range 3 {
		if res, body := c.send("GET /y HTTP/1.1\r\nHost: h.test\r\n\r\n").response("GET"); res.StatusCode != 200 || body != "one GET /y " {
			t.Fatalf("%s %q", res.Status, body)
		}
	}
}

func TestRedirectNamesThePort(t *testing.T) {
	a := newAuthority(t, "h.test")
	f := newFixture(t, Config{Certificates: a}, secured(on("a", "h.test", "/", backend(t, named("one")))))
	f.state.Settings.Listen.HTTPS = f.tlsAddr()
	f.apply(f.state.Services)
	_, port, _ := net.SplitHostPort(f.tlsAddr())
	if res, _ := f.get("h.test", "/x"); res.Header.Get("Location") != "https://h.test:"+port+"/x" {
		t.Errorf("to %q", res.Header.Get("Location"))
	}
}

// alertOf is the error of a handshake.
func alertOf(addr, name string) error {
	c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	return err
}

func TestA25UnknownServerName(t *testing.T) {
	a := newAuthority(t, "h.test", "*.w.test", "off.test")
	off := on("off", "off.test", "/", backend(t, named("off")))
	wild := secured(on("w", "*.w.test", "/", backend(t, named("wild"))))
	f := newFixture(t, Config{Certificates: a}, secured(on("a", "h.test", "/", backend(t, named("one")))), off, wild)
	for _, name := range []string{"nobody.test", "off.test", "a.b.w.test", "127.0.0.1"} {
		if err := alertOf(f.tlsAddr(), name); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%s: %v, want alert 112", name, err)
		}
	}
	// A ticket of one name opens no other.
	cache := tls.NewLRUClientSessionCache(1)
	for _, name := range []string{"h.test", "nobody.test"} {
		c, err := tls.Dial("tcp", f.tlsAddr(), &tls.Config{ServerName: name, InsecureSkipVerify: true, ClientSessionCache: sameSession{cache}})
		if name == "nobody.test" {
			if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("with a ticket: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n")
		_, _ = io.ReadAll(c)
		_ = c.Close()
	}
	if _, body := f.dialTLS(a, "x.w.test").send("GET / HTTP/1.1\r\nHost: x.w.test\r\n\r\n").response("GET"); body != "wild GET / " {
		t.Errorf("%q", body)
	}
	// The host of a request must be one of the certificate's.
	for host, want := range map[string]int{"off.test": 421, "h.test": 421, "y.w.test": 200} {
		if res, _ := f.dialTLS(a, "x.w.test").send("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n").response("GET"); res.StatusCode != want {
			t.Errorf("%s: %s, want %d", host, res.Status, want)
		}
	}
}

// sameSession gives every name the session of the one before.
type sameSession struct{ tls.ClientSessionCache }

func (c sameSession) Get(string) (*tls.ClientSessionState, bool) {
	return c.ClientSessionCache.Get("x")
}
func (c sameSession) Put(_ string, s *tls.ClientSessionState) { c.ClientSessionCache.Put("x", s) }

func TestTLSSessionIsResumed(t *testing.T) {
	a := newAuthority(t, "h.test")
	f := newFixture(t, Config{Certificates: a}, secured(on("a", "h.test", "/", backend(t, named("one")))))
	cache := tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		c, err := tls.Dial("tcp", f.tlsAddr(), &tls.Config{ServerName: "h.test", RootCAs: a.pool(), ClientSessionCache: cache})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n")
		_, _ = io.ReadAll(c)
		if resumed := c.ConnectionState().DidResume; resumed != (i == 1) {
			t.Errorf("%d: resumed %v", i, resumed)
		}
		_ = c.Close()
	}
}

// tlsBackend serves with a certificate of the authority.
func tlsBackend(t *testing.T, cert *tls.Certificate, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return netip.MustParseAddrPort(srv.Listener.Addr().String())
}

func TestL02FourCombinationsOfTLS(t *testing.T) {
	a := newAuthority(t, "tls.test")
	over := func(w http.ResponseWriter, r *http.Request) {
		name := ""
		if r.TLS != nil {
			name = " " + r.TLS.ServerName
		}
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-Proto")+name)
	}
	plain, tlsAt := backend(t, over), tlsBackend(t, a.leaf("replica.test"), over)
	service := func(user, host string, at netip.AddrPort, b model.BackendTLS) model.Service {
		svc := on(user, host, "/"+user, at)
		svc.HTTP[0].TLS = host == "tls.test"
		svc.HTTP[0].Paths[0].BackendTLS = b
		return svc
	}
	verify := model.BackendTLS{Mode: "verify", ServerName: "replica.test", CAFile: a.file()}
	wrong := verify
	wrong.ServerName = "other.test"
	off := model.BackendTLS{Mode: "off"}
	var all []model.Service
	for _, host := range []string{"tls.test", "plain.test"} {
		p := host[:1]
		all = append(all, service(p+"off", host, plain, off), service(p+"on", host, tlsAt, model.BackendTLS{Mode: "on"}),
			service(p+"verify", host, tlsAt, verify), service(p+"wrong", host, tlsAt, wrong), service(p+"nottls", host, plain, verify))
	}
	f := newFixture(t, Config{Certificates: a}, all...)
	for _, host := range []string{"tls.test", "plain.test"} {
		p, proto := host[:1], "http"
		dial := f.dial
		if p == "t" {
			dial, proto = func() *raw { return f.dialTLS(a, "tls.test") }, "https"
		}
		for path, want := range map[string]string{
			"off": proto, "on": proto + " " + host, "verify": proto + " replica.test", "wrong": "502", "nottls": "502",
		} {
			c := dial()
			for range 2 {
				res, body := c.send("GET /" + p + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n").response("GET")
				if want == "502" && res.StatusCode == 502 && strings.Contains(body, "TLS handshake") {
					continue
				}
				if body != want {
					t.Errorf("%s/%s%s: %s %q, want %q", host, p, path, res.Status, body, want)
				}
			}
		}
	}
}

func TestBackendTLSFileIsReadAnew(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	path := other.file()
	svc := on("a", "h", "/", tlsBackend(t, a.leaf("h"), named("one")))
	svc.HTTP[0].Paths[0].BackendTLS = model.BackendTLS{Mode: "verify", CAFile: path}
	f := newFixture(t, Config{}, svc)
	if res, _ := f.get("h", "/"); res.StatusCode != 502 {
		t.Errorf("%s", res.Status)
	}
	pem, _ := os.ReadFile(a.file())
	if err := os.WriteFile(path, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	f.serve(svc)
	if res, body := f.get("h", "/"); body != "one GET / " {
		t.Errorf("%s %s", res.Status, body)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	err := f.Apply(t.Context(), f.state)
	if err == nil || !strings.Contains(err.Error(), "service p/a, path /: backendTLS: read caFile") {
		t.Errorf("%v", err)
	}
	if res, _ := f.get("h", "/"); res.StatusCode != 502 {
		t.Errorf("%s", res.Status)
	}
}
