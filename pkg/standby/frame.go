// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths of headers without options: IEEE 802.3, RFC 791, RFC 8200, RFC 768.
const (
	etherLen = 14
	ipv4Len  = 20
	ipv6Len  = 40
	udpLen   = 8
)

// firstHops is the TTL of a frame that is made anew.
const firstHops = 64

// frameOf is a datagram as it came over the wire, but for what its socket did not
// tell: Ethernet addresses, TTL, identification.
func frameOf(from, to netip.AddrPort, data []byte) []byte {
	v4 := from.Addr().Is4()
	head, kind := ipv6Len, uint16(unix.ETH_P_IPV6)
	if v4 {
		head, kind = ipv4Len, unix.ETH_P_IP
	}
	f := make([]byte, etherLen+head+udpLen+len(data))
	binary.BigEndian.PutUint16(f[12:], kind)
	ip, length := f[etherLen:], udpLen+len(data)
	if v4 {
		ip[0] = 4<<4 | ipv4Len/4
		binary.BigEndian.PutUint16(ip[2:], uint16(head+length))
		ip[8], ip[9] = firstHops, unix.IPPROTO_UDP
		src, dst := from.Addr().As4(), to.Addr().As4()
		copy(ip[12:], src[:])
		copy(ip[16:], dst[:])
		binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:ipv4Len])))
	} else {
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[4:], uint16(length))
		ip[6], ip[7] = unix.IPPROTO_UDP, firstHops
		src, dst := from.Addr().As16(), to.Addr().As16()
		copy(ip[8:], src[:])
		copy(ip[24:], dst[:])
	}
	udp := ip[head:]
	binary.BigEndian.PutUint16(udp[0:], from.Port())
	binary.BigEndian.PutUint16(udp[2:], to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(length))
	copy(udp[udpLen:], data)
	// The pseudo-header: addresses, protocol and length (RFC 768, RFC 8200 section 8.1).
	addrs := ip[8:head]
	if v4 {
		addrs = ip[12:head]
	}
	check := ^fold(sum(sum(uint32(unix.IPPROTO_UDP+length), addrs), udp))
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return f
}

// sum adds up the 16-bit words of b (RFC 1071); a last odd byte has a zero
// beside it.
func sum(n uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		n += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		n += uint32(b[0]) << 8
	}
	return n
}

func fold(n uint32) uint16 {
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}

var errNotTranslated = errors.New("the frame that came out is no datagram to a replica")

// packetOf is the IP packet of a frame that the program has translated, and where
// it goes; an error if it is not a datagram, or still to vip.
func packetOf(frame []byte, vip netip.Addr) (ip []byte, to netip.Addr, err error) {
	if len(frame) < etherLen+ipv4Len+udpLen {
		return nil, to, errNotTranslated
	}
	ip = frame[etherLen:]
	var proto byte
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_IP:
		proto, to = ip[9], netip.AddrFrom4([4]byte(ip[16:20]))
	case unix.ETH_P_IPV6:
		if len(ip) < ipv6Len+udpLen {
			return nil, to, errNotTranslated
		}
		proto, to = ip[6], netip.AddrFrom16([16]byte(ip[24:40]))
	}
	if proto != unix.IPPROTO_UDP || to == vip {
		return nil, to, fmt.Errorf("%w: protocol %d to %s", errNotTranslated, proto, to)
	}
	return ip, to, nil
}

// sender sends whole IP packets, from whatever address they name.
type sender struct{ v4, v6 int } // -1: none

func newSender() (*sender, error) {
	s := &sender{v4: -1, v6: -1}
	var err error
	if s.v4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW); err != nil {
		return nil, fmt.Errorf("open raw socket: %w", err)
	}
	if s.v6, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW); err != nil {
		s.v6 = -1 // a host without IPv6
	}
	return s, nil
}

// send lets the kernel find the way to to.
func (s *sender) send(ip []byte, to netip.Addr) error {
	if to.Is4() {
		return unix.Sendto(s.v4, ip, 0, &unix.SockaddrInet4{Addr: to.As4()})
	}
	return unix.Sendto(s.v6, ip, 0, &unix.SockaddrInet6{Addr: to.As16()})
}

func (s *sender) close() {
	for _, fd := range []int{s.v4, s.v6} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}
