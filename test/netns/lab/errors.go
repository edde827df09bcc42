// SPDX-License-Identifier: Apache-2.0

package lab

import (
	enc "encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ICMPError is an ICMP error that the kernel found a socket for.
type ICMPError struct {
	Type, Code uint8
	Info       uint32         // the MTU, where it is about one
	Offender   netip.Addr     // who sent it
	About      netip.AddrPort // where the quoted packet went
}

// KeepErrors has the kernel keep ICMP errors about a UDP socket's packets for
// NextError.
func KeepErrors(c syscall.Conn, f Family) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var opt error
	err = raw.Control(func(fd uintptr) {
		if f == V6 {
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
			return
		}
		opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	})
	return errors.Join(err, opt)
}

// NextError waits for an ICMP error about the socket's packets.
func NextError(c syscall.Conn, timeout time.Duration) (ICMPError, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return ICMPError{}, err
	}
	for deadline := time.Now().Add(Patience(timeout)); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var e ICMPError
		var recv error
		if err := raw.Control(func(fd uintptr) { e, recv = takeError(int(fd)) }); err != nil {
			return ICMPError{}, err
		}
		if !errors.Is(recv, unix.EAGAIN) && !errors.Is(recv, unix.EINTR) {
			return e, recv
		}
	}
	return ICMPError{}, fmt.Errorf("no ICMP error within %v", timeout)
}

// takeError reads one message of the error queue: struct sock_extended_err and
// the offender's address (linux/errqueue.h).
func takeError(fd int) (ICMPError, error) {
	oob := make([]byte, 512)
	_, oobn, _, to, err := unix.Recvmsg(fd, make([]byte, 2048), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return ICMPError{}, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return ICMPError{}, err
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < 16+8 {
			continue
		}
		e := ICMPError{Type: m.Data[5], Code: m.Data[6], Info: enc.NativeEndian.Uint32(m.Data[8:]), About: addrPort(to)}
		if v6 && len(m.Data) >= 16+24 {
			e.Offender = netip.AddrFrom16([16]byte(m.Data[24:40]))
		} else {
			e.Offender = netip.AddrFrom4([4]byte(m.Data[20:24]))
		}
		return e, nil
	}
	return ICMPError{}, fmt.Errorf("error queue without an ICMP error: %x", oob[:oobn])
}

// SendICMP sends one ICMP message from the namespace: type, code, the four
// bytes after the checksum, and what follows.
func (n *Netns) SendICMP(to netip.Addr, typ, code uint8, rest uint32, body []byte) error {
	network := "ip4:icmp"
	if to.Is6() {
		network = "ip6:ipv6-icmp" // the kernel does the checksum
	}
	m := enc.BigEndian.AppendUint32([]byte{typ, code, 0, 0}, rest)
	m = append(m, body...)
	if to.Is4() {
		enc.BigEndian.PutUint16(m[2:], ^Sum(m))
	}
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = net.Dial(network, to.String())
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(m)
	return err
}

// Sum adds up 16-bit words as RFC 1071 does.
func Sum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// UDPPacket is an IP packet with a UDP datagram in it, checksums right.
func UDPPacket(src, dst netip.AddrPort, payload []byte) []byte {
	udp := enc.BigEndian.AppendUint16(nil, src.Port())
	udp = enc.BigEndian.AppendUint16(udp, dst.Port())
	udp = enc.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_UDP)
	pseudo = enc.BigEndian.AppendUint16(pseudo, uint16(len(udp)))
	enc.BigEndian.PutUint16(udp[6:], ^Sum(append(pseudo, udp...)))
	if src.Addr().Is6() {
		ip := []byte{0x60, 0, 0, 0, byte(len(udp) >> 8), byte(len(udp)), unix.IPPROTO_UDP, 64}
		return append(append(append(ip, src.Addr().AsSlice()...), dst.Addr().AsSlice()...), udp...)
	}
	total := 20 + len(udp)
	ip := []byte{0x45, 0, byte(total >> 8), byte(total), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	enc.BigEndian.PutUint16(ip[10:], ^Sum(ip))
	return append(ip, udp...)
}
