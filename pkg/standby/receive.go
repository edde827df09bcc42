// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loopbackIndex is the index of the loopback interface in every network
// namespace (LOOPBACK_IFINDEX of the kernel): what comes by it is of this host.
const loopbackIndex = 1

// mostDatagram is the largest payload of UDP.
const mostDatagram = 64 << 10

// listenUDP opens an unconnected socket that tells of each datagram where it was
// sent to, and by which interface it came.
func listenUDP(network, address string) (*net.UDPConn, error) {
	options := []int{unix.SOL_IP, unix.IP_PKTINFO, unix.SOL_IP, unix.IP_RECVORIGDSTADDR}
	if network == "udp6" {
		options = []int{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR}
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			for o := range slices.Chunk(options, 2) {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), o[0], o[1], 1))
			}
		}), err)
	}}
	c, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

// read takes datagrams until the socket is closed.
func (d *datagrams) read(c *net.UDPConn) error {
	b, oob := make([]byte, mostDatagram), make([]byte, 256)
	for {
		n, m, _, from, err := c.ReadMsgUDPAddrPort(b, oob)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive datagrams: %w", err)
		}
		g := datagram{client: netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())}
		if g.vip, g.ifindex, err = destination(oob[:m]); err != nil {
			d.dropped.Add(1)
			d.cfg.Log.Debug("a datagram without its destination", "client", g.client, "error", err)
			continue
		}
		g.data = slices.Clone(b[:n])
		d.take(g)
	}
}

// readOn reads again after an error of the socket, which passes.
func (d *datagrams) readOn(ctx context.Context, c *net.UDPConn) {
	for {
		err := d.read(c)
		if err == nil || ctx.Err() != nil {
			return
		}
		d.cfg.Log.Warn("take datagrams to sleeping services", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// destination is what the kernel says of a datagram beside its payload (ip(7),
// ipv6(7)).
func destination(oob []byte) (to netip.AddrPort, ifindex uint32, err error) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return to, 0, err
	}
	for _, m := range all {
		switch k := [2]int32{m.Header.Level, m.Header.Type}; {
		case k == [2]int32{unix.SOL_IP, unix.IP_PKTINFO} && len(m.Data) >= 4:
			ifindex = binary.NativeEndian.Uint32(m.Data)
		case k == [2]int32{unix.SOL_IPV6, unix.IPV6_PKTINFO} && len(m.Data) >= 20:
			ifindex = binary.NativeEndian.Uint32(m.Data[16:])
		default:
			switch a, _ := unix.ParseOrigDstAddr(&m); a := a.(type) {
			case *unix.SockaddrInet4:
				to = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
			case *unix.SockaddrInet6:
				to = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
			}
		}
	}
	if !to.IsValid() || ifindex == 0 {
		return to, 0, errors.New("the kernel has not told")
	}
	return to, ifindex, nil
}
