// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/conn/haproxytest"
)

// trust has the front believe proxies at these addresses.
func (f *fixture) trust(cidrs ...string) {
	f.t.Helper()
	f.state.Settings.TrustedProxies = nil
	for _, c := range cidrs {
		f.state.Settings.TrustedProxies = append(f.state.Settings.TrustedProxies, netip.MustParsePrefix(c))
	}
	f.apply(f.state.Services)
}

// forwardedFor answers with what the replica is told of the client.
func forwardedFor(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-For"))
}

const request = "GET / HTTP/1.1\r\nHost: h.test\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"

var (
	header1 = "PROXY TCP4 192.0.2.9 203.0.113.1 999 80\r\n"
	header2 = string(conn.ProxyHeader(netip.MustParseAddrPort("192.0.2.9:999"), netip.MustParseAddrPort("203.0.113.1:80")))
)

func TestProxyHeaderOfTheFront(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "h.test", "/", backend(t, forwardedFor)))
	f.trust("127.0.0.1/32", "198.51.100.0/24")
	for name, tt := range map[string]struct{ head, want string }{
		"version 1":                  {header1, "192.0.2.9"},
		"version 2":                  {header2, "192.0.2.9"},
		"IPv6":                       {"PROXY TCP6 2001:db8::9 2001:db8::1 1 2\r\n", "2001:db8::9"},
		"none":                       {"", "6.6.6.6, 127.0.0.1"},
		"unknown":                    {"PROXY UNKNOWN\r\n", "6.6.6.6, 127.0.0.1"},
		"local":                      {string(conn.ProxyHeader(netip.AddrPort{}, netip.AddrPort{})), "6.6.6.6, 127.0.0.1"},
		"of a trusted proxy further": {"PROXY TCP4 198.51.100.7 203.0.113.1 999 80\r\n", "6.6.6.6, 198.51.100.7"},
	} {
		if _, body := f.dial().send(tt.head + request).response("GET"); body != tt.want {
			t.Errorf("%s: the replica was told %q, want %q", name, body, tt.want)
		}
		c := f.dial()
		for _, b := range []byte(tt.head + request) { // byte by byte
			c.send(string([]byte{b}))
		}
		if _, body := c.response("GET"); body != tt.want {
			t.Errorf("%s, byte by byte: the replica was told %q, want %q", name, body, tt.want)
		}
	}
	// Rules see the client, not the proxy.
	f.state.Services[0].Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	f.apply(f.state.Services)
	if res, _ := f.dial().send(header1 + request).response("GET"); res.StatusCode != 200 {
		t.Errorf("an allowed client behind the proxy: %s", res.Status)
	}
	if res, _ := f.dial().send("PROXY TCP4 192.0.3.9 203.0.113.1 999 80\r\n" + request).response("GET"); res.StatusCode != 403 {
		t.Errorf("a client that is not allowed, behind the proxy: %s", res.Status)
	}
	// Whoever is not trusted is not believed.
	f.state.Services[0].Allow = nil
	f.trust("192.0.2.0/24")
	for _, head := range []string{header1, header2} {
		if res, _ := f.dial().send(head + request).response("GET"); res.StatusCode != 400 {
			t.Errorf("a header of a peer that is not trusted: %s", res.Status)
		}
	}
}

// What is broken, cut short or late is closed in time, counted, and answered
// to nobody.
func TestProxyHeaderHostile(t *testing.T) {
	a := newAuthority(t, "h.test")
	f := newFixture(t, Config{Certificates: a, Limits: Limits{Head: 200 * time.Millisecond}}, secured(on("a", "h.test", "/", backend(t, forwardedFor))))
	f.trust("127.0.0.1/32")
	counted := func(code int) uint64 {
		for _, c := range f.Counts() {
			if c.Service == "none" {
				return c.Codes[code]
			}
		}
		return 0
	}
	bad, late := counted(400), counted(408)
	for _, secure := range []bool{false, true} {
		for name, in := range map[string]string{
			"broken 1":  "PROXY TCP4 nobody nowhere 1 2\r\n" + request,
			"endless 1": "PROXY TCP4 " + strings.Repeat("1", 4096),
			"broken 2":  header2[:12] + "\x31\x11\x00\x00" + request,
			"huge 2":    header2[:12] + "\x21\x11\xff\xff" + strings.Repeat("x", 4096),
			"short 2":   header2[:12] + "\x21\x11\x00\x04abcd" + request,
			"cut 1":     header1[:20],
			"cut 2":     header2[:20],
		} {
			addr := f.addr()
			if secure {
				addr = f.tlsAddr()
			}
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(long))
			_, _ = io.WriteString(c, in)
			if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !isReset(err) {
				t.Errorf("%s, TLS %t: read %q, %v; want the end alone", name, secure, b, err)
			}
			_ = c.Close()
			if strings.HasPrefix(name, "cut") {
				late++
			} else {
				bad++
			}
		}
	}
	f.counts("none", func(c Count) bool { return c.Codes[400] == bad && c.Codes[408] == late })
	f.trust("127.0.0.1/32") // still alive
	if res, _ := f.dial().send(header1 + strings.ReplaceAll(request, "GET / ", "GET /x ")).response("GET"); res.StatusCode != 301 {
		t.Errorf("after all that: %s", res.Status)
	}
}

func isReset(err error) bool { return strings.Contains(err.Error(), syscall.ECONNRESET.Error()) }

// The limit of connections is of clients, not of the proxy.
func TestConnectionLimitBehindAProxy(t *testing.T) {
	f := newFixture(t, Config{Limits: Limits{PerClient: 2}}, on("a", "h.test", "/", backend(t, forwardedFor)))
	f.trust("127.0.0.1/32")
	hold := func(client string) *raw {
		return f.dial().send("PROXY TCP4 " + client + " 203.0.113.1 999 80\r\n" + request)
	}
	var open []*raw
	for _, client := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"} {
		c := hold(client)
		if res, body := c.response("GET"); res.StatusCode != 200 || body != client {
			t.Fatalf("%s: %s %q", client, res.Status, body)
		}
		open = append(open, c)
	}
	if _, err := hold("192.0.2.1").r.ReadByte(); err == nil {
		t.Error("a third connection of the same client was served")
	}
	_ = open[0].Close()
	for end := time.Now().Add(long); ; time.Sleep(5 * time.Millisecond) {
		if _, err := hold("192.0.2.1").r.ReadByte(); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("a connection that ended is still counted")
		}
	}
}

// A real proxy in front: HTTP/1.1 and HTTP/2, in cleartext and over TLS.
func TestBehindHAProxy(t *testing.T) {
	a := newAuthority(t, "h.test")
	f := newFixture(t, Config{Certificates: a}, secured(on("a", "h.test", "/", backend(t, forwardedFor))), on("b", "plain.test", "/", backend(t, forwardedFor)))
	f.trust("127.0.0.1/32")
	const client = "127.0.0.9" // which is not trusted
	for _, send := range []string{"send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"} {
		plain, secure := haproxytest.Run(t, f.addr(), send), haproxytest.Run(t, f.tlsAddr(), send)
		for _, h2 := range []bool{false, true} {
			for url, at := range map[string]string{"http://plain.test/": plain, "https://h.test/": secure} {
				tr := &http.Transport{
					TLSClientConfig: &tls.Config{RootCAs: a.pool()}, Protocols: new(http.Protocols),
					DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
						d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}}
						return d.DialContext(ctx, "tcp", at)
					},
				}
				tr.Protocols.SetHTTP1(!h2)
				tr.Protocols.SetHTTP2(h2)
				tr.Protocols.SetUnencryptedHTTP2(h2)
				res, body := fetch(t, &http.Client{Transport: tr, Timeout: long}, url, "X-Forwarded-For", "6.6.6.6")
				if res.StatusCode != 200 || body != client || (res.ProtoMajor == 2) != h2 {
					t.Errorf("%s, %s, HTTP/2 %t: %s %s, the replica was told %q, want %q", send, url, h2, res.Proto, res.Status, body, client)
				}
				tr.CloseIdleConnections()
			}
		}
	}
}
