// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestUnread(t *testing.T) {
	client, server := pair(t)
	_, err := client.Write([]byte("cdef"))
	must(t, err)
	must(t, client.CloseWrite())
	c := New(server)
	head := make([]byte, 2)
	_, err = io.ReadFull(c, head)
	must(t, err)
	c.Unread(head)
	c.Unread([]byte("ab"))
	if b := make([]byte, 3); true {
		n, err := c.Read(b)
		if string(b[:n]) != "abc" || err != nil {
			t.Errorf("read %q, %v", b[:n], err)
		}
	}
	var all bytes.Buffer
	if n, err := io.Copy(&all, c); n != 3 || err != nil || all.String() != "def" {
		t.Errorf("copied %q, %d, %v", all.String(), n, err)
	}
	if rest := c.TakeUnread(); len(rest) > 0 {
		t.Errorf("left %q", rest)
	}
}

// What a client sends after the answer does not turn the close into a reset
// that overtakes it.
func TestFarewell(t *testing.T) {
	client, server := pair(t)
	_, err := client.Write(make([]byte, 50<<10))
	must(t, err)
	done := make(chan bool)
	go func() { Farewell(server, []byte("-ERR no\r\n")); close(done) }()
	b, err := io.ReadAll(client)
	if err != nil || string(b) != "-ERR no\r\n" {
		t.Errorf("%q, %v", b, err)
	}
	must(t, client.Close())
	wait(t, done)
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestL08AcceptorThatNeverBeginsAcceptsNobody: who waits in a socket that a
// predecessor has, too, is its.
func TestL08AcceptorThatNeverBeginsAcceptsNobody(t *testing.T) {
	l := listen(t)
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer c.Close()
	var taken atomic.Int32
	a := NewAcceptor(AcceptConfig{Begin: make(chan struct{}), Handle: func(_ context.Context, c *Conn) {
		taken.Add(1)
		_ = c.Close()
	}})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 200 { // it is a matter of which goroutine is first
		f, err := l.File()
		must(t, err)
		again, err := net.FileListener(f)
		must(t, err)
		must(t, f.Close())
		must(t, a.Serve(ended, again.(*net.TCPListener)))
		if taken.Load() > 0 {
			t.Fatal("it took the connection")
		}
	}
	must(t, l.SetDeadline(time.Now().Add(patience)))
	waits, err := l.Accept()
	must(t, err)
	must(t, waits.Close())
}

// Clients over a limit are closed, and counted; a connection that has said
// where it goes takes no place.
func TestAcceptorLimits(t *testing.T) {
	l := listen(t)
	handled, refused := make(chan *Conn, 10), make(chan netip.Addr, 10)
	a := NewAcceptor(AcceptConfig{
		Pending: 10, PendingPerSource: 2,
		Refused: func(peer netip.Addr) { refused <- peer },
		Handle: func(ctx context.Context, c *Conn) {
			handled <- c
			<-ctx.Done()
			_ = c.Close()
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, l) }()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		must(t, c.SetDeadline(time.Now().Add(patience)))
		return c
	}
	dial()
	first := wait(t, handled)
	dial()
	wait(t, handled)
	third := dial()
	if peer := wait(t, refused); peer != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("refused %s", peer)
	}
	if _, err := third.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a refused connection reads %v", err)
	}
	first.Routed()
	first.Routed()
	if a.Pending() != 1 {
		t.Errorf("%d pending, want 1", a.Pending())
	}
	dial()
	wait(t, handled)
	cancel()
	if err := wait(t, served); err != nil {
		t.Error(err)
	}
	if a.Pending() != 0 || len(a.sources) != 0 {
		t.Errorf("%d pending, %v", a.Pending(), a.sources)
	}
}

func TestSource(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1", "2001:db8::1:2:3:4": "2001:db8::", "2001:db8:0:1::9": "2001:db8:0:1::"} {
		if got := Source(netip.MustParseAddr(in)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// The header's bytes are those of the specification, and come back as they
// went out.
func TestProxyHeader(t *testing.T) {
	ap := netip.MustParseAddrPort
	const sig = "0d0a0d0a000d0a515549540a"
	for _, tc := range []struct {
		name     string
		from, to netip.AddrPort
		want     string
	}{
		{"4", ap("192.0.2.1:4660"), ap("198.51.100.2:5432"), "2111000cc0000201c633640212341538"},
		{"6", ap("[2001:db8::1]:4660"), ap("[2001:db8::2]:5432"), "21210024" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" + "12341538"},
		{"none", netip.AddrPort{}, ap("198.51.100.2:5432"), "20000000"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := ProxyHeader(tc.from, tc.to)
			if got := hex.EncodeToString(h); got != sig+tc.want {
				t.Errorf("header %s, want %s", got, sig+tc.want)
			}
			client, server := pair(t)
			go func() {
				for _, b := range append(h, "hello"...) { // byte by byte
					_, _ = client.Write([]byte{b})
				}
				_ = client.CloseWrite()
			}()
			c := New(server)
			before := c.Peer
			must(t, c.ReadProxyHeader())
			if tc.from.IsValid() && (c.Peer != tc.from || c.Local != tc.to) || !tc.from.IsValid() && c.Peer != before {
				t.Errorf("client %s to %s", c.Peer, c.Local)
			}
			if rest, err := io.ReadAll(c); string(rest) != "hello" || err != nil {
				t.Errorf("after the header: %q, %v", rest, err)
			}
		})
	}
	if h := ProxyHeader(ap("192.0.2.1:1"), ap("[2001:db8::2]:2")); h[13] != proxyTCP6 || !bytes.Contains(h, []byte{0xff, 0xff, 192, 0, 2, 1}) {
		t.Errorf("two families: %x", h)
	}
}

// Version 1 says the same.
func TestProxyHeader1(t *testing.T) {
	for in, want := range map[string]string{
		"PROXY TCP4 192.0.2.9 203.0.113.1 999 443\r\n":             "192.0.2.9:999 203.0.113.1:443",
		"PROXY TCP6 2001:db8::9 2001:db8::1 1 65535\r\n":           "[2001:db8::9]:1 [2001:db8::1]:65535",
		"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:192.0.2.1 999 443\r\n": "192.0.2.9:999 192.0.2.1:443",
	} {
		c, _, err := readHeader(t, []byte(in))
		if got := c.Peer.String() + " " + c.Local.String(); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", in, got, err, want)
		}
	}
}

// readHeader feeds bytes to ReadProxyHeader and returns what is left.
func readHeader(t testing.TB, in []byte) (c *Conn, rest []byte, err error) {
	client, server := pair(t)
	go func() { _, _ = client.Write(in); _ = client.CloseWrite() }()
	c = New(server)
	if err = c.ReadProxyHeader(); err != nil {
		return c, nil, err
	}
	rest, err = io.ReadAll(c)
	return c, rest, err
}

func TestProxyHeaderRefusals(t *testing.T) {
	sig := string(proxySignature)
	for name, tc := range map[string]struct {
		in   string
		want error  // of ReadProxyHeader
		left string // otherwise
	}{
		"none":            {"\x16\x03\x01 TLS", nil, "\x16\x03\x01 TLS"},
		"nothing":         {"", nil, ""},
		"half":            {sig[:5], nil, sig[:5]},
		"head only":       {sig + "\x21\x11\x00\x0c", io.ErrUnexpectedEOF, ""},
		"cut":             {sig + "\x21\x11\x00\x0cabc", io.ErrUnexpectedEOF, ""},
		"too long":        {sig + "\x21\x11\xff\xff", ErrProxyHeader, ""},
		"too short":       {sig + "\x21\x11\x00\x04abcd", ErrProxyHeader, ""},
		"version 3":       {sig + "\x31\x11\x00\x00", ErrProxyHeader, ""},
		"unix":            {sig + "\x21\x31\x00\x02abrest", nil, "rest"},
		"with TLVs":       {sig + "\x21\x11\x00\x0f" + strings.Repeat("\x01", 12) + "\x04\x00\x00rest", nil, "rest"},
		"local, with TLV": {sig + "\x20\x00\x00\x03\x04\x00\x00rest", nil, "rest"},

		"1: IPv4":         {"PROXY TCP4 192.0.2.9 203.0.113.1 999 443\r\nrest", nil, "rest"},
		"1: IPv6":         {"PROXY TCP6 2001:db8::9 2001:db8::1 999 443\r\nrest", nil, "rest"},
		"1: unknown":      {"PROXY UNKNOWN\r\nrest", nil, "rest"},
		"1: unknown, all": {"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\nrest", nil, "rest"},
		"1: half a word":  {"PROX", nil, "PROX"},
		"1: another word": {"PROXYING / HTTP/1.1", nil, "PROXYING / HTTP/1.1"},
		"1: cut":          {"PROXY TCP4 192.0.2.9 203", io.ErrUnexpectedEOF, ""},
		"1: no CR":        {"PROXY TCP4 192.0.2.9 203.0.113.1 999 443\nrest", ErrProxyHeader, ""},
		"1: endless":      {"PROXY TCP4 " + strings.Repeat("1", 200), ErrProxyHeader, ""},
		"1: wrong family": {"PROXY TCP4 2001:db8::9 2001:db8::1 999 443\r\n", ErrProxyHeader, ""},
		"1: a name":       {"PROXY TCP4 localhost 203.0.113.1 999 443\r\n", ErrProxyHeader, ""},
		"1: a zone":       {"PROXY TCP6 fe80::1%eth0 fe80::2 999 443\r\n", ErrProxyHeader, ""},
		"1: port 65536":   {"PROXY TCP4 192.0.2.9 203.0.113.1 65536 443\r\n", ErrProxyHeader, ""},
		"1: port 0443":    {"PROXY TCP4 192.0.2.9 203.0.113.1 999 0443\r\n", ErrProxyHeader, ""},
		"1: two spaces":   {"PROXY TCP4  192.0.2.9 203.0.113.1 999 443\r\n", ErrProxyHeader, ""},
		"1: UDP":          {"PROXY UDP4 192.0.2.9 203.0.113.1 999 443\r\n", ErrProxyHeader, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, rest, err := readHeader(t, []byte(tc.in))
			if !errors.Is(err, tc.want) || string(rest) != tc.left {
				t.Errorf("left %q, error %v; want %q, %v", rest, err, tc.left, tc.want)
			}
		})
	}
}

// Whatever comes, a header is taken whole or not at all.
func FuzzProxyHeader(f *testing.F) {
	f.Add(append(ProxyHeader(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2")), "rest"...))
	f.Add([]byte("\x16\x03\x01\x00\x05hello"))
	f.Add([]byte("\r\n\r\n\x00\r\nQU"))
	f.Add([]byte("PROXY TCP4 192.0.2.9 203.0.113.1 999 443\r\nGET / HTTP/1.1\r\n"))
	f.Add([]byte("PROXY TCP6 2001:db8::9 2001:db8::1 999 443\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 4096 {
			return
		}
		c, rest, err := readHeader(t, in)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(in, rest) {
			t.Errorf("rest %q of %q", rest, in)
		}
		if taken := len(in) - len(rest); taken != 0 && taken < len("PROXY UNKNOWN\r\n") {
			t.Errorf("%d bytes were taken", taken)
		}
		// However the bytes come, the answer is the same.
		p, n, more, err := ParseProxyHeader(in)
		if !more && (err != nil || n != len(in)-len(rest) || p.Client.IsValid() && p.Client != c.Peer) {
			t.Errorf("at once: %v, %d, %v", p, n, err)
		}
		for i := range in[:n] {
			if _, m, more, err := ParseProxyHeader(in[:i]); m != 0 || !more || err != nil {
				t.Errorf("%d bytes of a header of %d: %d, %t, %v", i, n, m, more, err)
			}
		}
		if !c.Peer.IsValid() {
			t.Error("no client")
		}
	})
}
