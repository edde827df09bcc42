// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// The PROXY protocol: HAProxy's doc/proxy-protocol.txt. Version 2 is section 2.2.
var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

const (
	proxyHead    = 16
	proxyLocal   = 0x20 // version 2, command LOCAL
	proxyProxy   = 0x21
	proxyTCP4    = 0x11
	proxyTCP6    = 0x21
	proxyMaxBody = 2048 // of addresses and TLVs; 36 are needed
)

// ErrProxyHeader says that a PROXY header is broken.
var ErrProxyHeader = errors.New("broken PROXY protocol header")

// ProxyHeader is the header, of version 2, that tells a server of its client and of the
// address the client connected to. Addresses of two families are both written
// as IPv6; without a client it is the LOCAL header, "no client".
func ProxyHeader(client, to netip.AddrPort) []byte {
	h := append(make([]byte, 0, proxyHead+36), proxySignature...)
	c, t := client.Addr().Unmap(), to.Addr().Unmap()
	var addrs []byte
	family := byte(proxyTCP4)
	switch {
	case !c.IsValid() || !t.IsValid():
		return append(h, proxyLocal, 0, 0, 0)
	case c.Is4() && t.Is4():
		addrs = append(c.AsSlice(), t.AsSlice()...)
	default:
		family = proxyTCP6
		c16, t16 := c.As16(), t.As16()
		addrs = append(c16[:], t16[:]...)
	}
	h = append(h, proxyProxy, family)
	h = binary.BigEndian.AppendUint16(h, uint16(len(addrs)+4))
	h = append(h, addrs...)
	h = binary.BigEndian.AppendUint16(h, client.Port())
	return binary.BigEndian.AppendUint16(h, to.Port())
}

// Proxied is what a PROXY header tells: the client, and the address that it
// connected to. Neither is valid where the header tells of none, such as for a
// health check of the proxy's own.
type Proxied struct{ Client, To netip.AddrPort }

// errShort says that a header may follow, and is not whole yet.
var errShort = errors.New("more of the PROXY protocol header is to come")

// ParseProxyHeader reads a PROXY header, of version 1 or 2, at the beginning
// of a stream and tells its length; 0: the stream does not begin with one. more
// asks for more bytes; there are never more than MaxProxyHeader needed. The error is
// ErrProxyHeader.
func ParseProxyHeader(b []byte) (p Proxied, n int, more bool, err error) {
	switch {
	case bytes.HasPrefix(b, proxySignature):
		p, n, err = parseProxy2(b)
	case bytes.HasPrefix(b, proxyWord):
		p, n, err = parseProxy1(b)
	default:
		return p, 0, bytes.HasPrefix(proxySignature, b) || bytes.HasPrefix(proxyWord, b), nil
	}
	if errors.Is(err, errShort) {
		return Proxied{}, 0, true, nil
	}
	return p, n, false, err
}

// MaxProxyHeader is the length of the longest header that is taken.
const MaxProxyHeader = proxyHead + proxyMaxBody

// Version 1: doc/proxy-protocol.txt, section 2.1.
var proxyWord = []byte("PROXY ")

const proxyLine = 107 // the longest line, CRLF included

func parseProxy1(b []byte) (p Proxied, n int, err error) {
	i := bytes.IndexByte(b[:min(len(b), proxyLine)], '\n')
	if i < 0 && len(b) < proxyLine {
		return p, 0, errShort
	}
	if i < 1 || b[i-1] != '\r' {
		return p, 0, fmt.Errorf("%w: no line of version 1 with CRLF within %d bytes", ErrProxyHeader, proxyLine)
	}
	f := strings.Split(string(b[len(proxyWord):i-1]), " ")
	if f[0] == "UNKNOWN" {
		return p, i + 1, nil
	}
	if len(f) != 5 || f[0] != "TCP4" && f[0] != "TCP6" {
		return p, 0, fmt.Errorf("%w: %q, want TCP4 or TCP6, two addresses and two ports", ErrProxyHeader, strings.Join(f, " "))
	}
	if p.Client, err = proxyAddr(f[0] == "TCP4", f[1], f[3]); err == nil {
		p.To, err = proxyAddr(f[0] == "TCP4", f[2], f[4])
	}
	if err != nil {
		return Proxied{}, 0, err
	}
	return p, i + 1, nil
}

// proxyAddr is an address of version 1, in canonical form.
func proxyAddr(four bool, addr, port string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Is4() != four || a.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%w: address %q", ErrProxyHeader, addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, fmt.Errorf("%w: port %q", ErrProxyHeader, port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

func parseProxy2(b []byte) (p Proxied, n int, err error) {
	if len(b) < proxyHead {
		return p, 0, errShort
	}
	size := int(binary.BigEndian.Uint16(b[14:]))
	if size > proxyMaxBody {
		return p, 0, fmt.Errorf("%w: %d bytes of addresses and options, want at most %d", ErrProxyHeader, size, proxyMaxBody)
	}
	if n = proxyHead + size; len(b) < n {
		return p, 0, errShort
	}
	switch command := b[12]; command {
	case proxyLocal: // the proxy itself, a health check
		return p, n, nil
	case proxyProxy:
	default:
		return p, 0, fmt.Errorf("%w: version and command %#x, want 0x20 or 0x21", ErrProxyHeader, command)
	}
	width := 0
	switch b[13] {
	case proxyTCP4:
		width = 4
	case proxyTCP6:
		width = 16
	default: // unspecified or a Unix socket: nothing to be told
		return p, n, nil
	}
	body := b[proxyHead:n]
	if len(body) < 2*width+4 {
		return p, 0, fmt.Errorf("%w: %d bytes of addresses, want %d", ErrProxyHeader, len(body), 2*width+4)
	}
	from, _ := netip.AddrFromSlice(body[:width])
	to, _ := netip.AddrFromSlice(body[width : 2*width])
	ports := body[2*width:]
	p.Client = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(ports))
	p.To = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(ports[2:]))
	return p, n, nil
}

// ReadProxyHeader reads a PROXY header and takes Peer and Local from it. A
// stream that begins with something else is left as it was: no protocol that a
// front speaks begins like a header. Only to be called for peers that are
// believed. The caller sets the deadline. The error is ErrProxyHeader or one of
// Read.
func (c *Conn) ReadProxyHeader() error {
	b := make([]byte, 0, 512)
	for {
		p, n, more, err := ParseProxyHeader(b)
		switch {
		case err != nil:
			return err
		case !more:
			if p.Client.IsValid() {
				c.Peer, c.Local = p.Client, p.To
			}
			c.Unread(b[n:])
			return nil
		}
		if len(b) == cap(b) {
			b = append(make([]byte, 0, MaxProxyHeader), b...)
		}
		n, err = c.Read(b[len(b):cap(b)])
		if b = b[:len(b)+n]; n > 0 {
			continue
		}
		if errors.Is(err, io.EOF) && len(b) < len(proxySignature) {
			c.Unread(b) // too short to be one; the protocol's parser says the rest
			return nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
}
