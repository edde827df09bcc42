// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The PROXY protocol, version 2: HAProxy's doc/proxy-protocol.txt, section 2.2.
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

// ProxyHeader is the header that tells a server of its client and of the
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

// ReadProxyHeader reads a PROXY header of version 2 and takes Peer and Local
// from it. A stream that begins with something else is left as it was: no
// protocol that a front speaks begins with the header's signature. Only to be
// called for peers that are believed. The caller sets the deadline. The error
// is ErrProxyHeader or one of Read.
func (c *Conn) ReadProxyHeader() error {
	head := make([]byte, 0, proxyHead)
	for len(head) < proxyHead {
		n, err := c.Read(head[len(head):proxyHead])
		head = head[:len(head)+n]
		if sig := min(len(head), len(proxySignature)); !bytes.Equal(head[:sig], proxySignature[:sig]) {
			c.Unread(head)
			return nil
		}
		if err != nil {
			c.Unread(head) // too short to be one; the protocol's parser says the rest
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
	size := int(binary.BigEndian.Uint16(head[14:]))
	if size > proxyMaxBody {
		return fmt.Errorf("%w: %d bytes of addresses and options, want at most %d", ErrProxyHeader, size, proxyMaxBody)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c, body); err != nil {
		return err
	}
	return c.believe(head[12], head[13], body)
}

// believe takes the addresses of a header.
func (c *Conn) believe(command, family byte, body []byte) error {
	switch command {
	case proxyLocal: // the proxy itself, a health check
		return nil
	case proxyProxy:
	default:
		return fmt.Errorf("%w: version and command %#x, want 0x20 or 0x21", ErrProxyHeader, command)
	}
	size := 0
	switch family {
	case proxyTCP4:
		size = 4
	case proxyTCP6:
		size = 16
	default: // unspecified or a Unix socket: nothing to be told
		return nil
	}
	if len(body) < 2*size+4 {
		return fmt.Errorf("%w: %d bytes of addresses, want %d", ErrProxyHeader, len(body), 2*size+4)
	}
	from, _ := netip.AddrFromSlice(body[:size])
	to, _ := netip.AddrFromSlice(body[size : 2*size])
	ports := body[2*size:]
	c.Peer = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(ports))
	c.Local = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(ports[2:]))
	return nil
}
