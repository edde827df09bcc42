// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// listener is a TCP socket that takes connections.
type listener struct {
	local netip.AddrPort
	only6 bool // [::] without IPv4
}

// String is as ss(8) writes it: * for both families.
func (l listener) String() string {
	if l.local.Addr() == netip.IPv6Unspecified() && !l.only6 {
		return fmt.Sprintf("*:%d", l.local.Port())
	}
	return l.local.String()
}

// takes tells whether connections to an address are its own.
func (l listener) takes(to netip.Addr) bool {
	a := l.local.Addr()
	switch {
	case a == to:
		return true
	case !a.IsUnspecified():
		return false
	}
	return a.Is4() == to.Is4() || a.Is6() && !l.only6
}

// Of include/uapi/linux/inet_diag.h.
const (
	diagRequestSize = 56 // struct inet_diag_req_v2
	diagMessageSize = 72 // struct inet_diag_msg
	diagV6Only      = 11 // INET_DIAG_SKV6ONLY
)

// listeners asks the kernel (sock_diag(7)) what listens in the network
// namespace pinned at path; its cost does not depend on how many connections
// there are. A kernel without tcp_diag is asked by /proc/PID/net.
func listeners(pid int, path string, limit time.Duration) ([]listener, error) {
	var all []listener
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		got, err := dumpListeners(path, family, limit)
		if errors.Is(err, fs.ErrNotExist) {
			return listenersByProc(pid)
		}
		if err != nil {
			return nil, fmt.Errorf("ask what listens in %s: %w", path, err)
		}
		all = append(all, got...)
	}
	return all, nil
}

func dumpListeners(path string, family uint8, limit time.Duration) ([]listener, error) {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", noPath(err))
	}
	defer func() { _ = unix.Close(ns) }()
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: ns})
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	request := make([]byte, diagRequestSize)
	request[0], request[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[4:], 1<<tcpListen)
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump}, Data: request,
	})
	if err != nil {
		return nil, err
	}
	var all []listener
	for _, m := range answers {
		if l, ok := parseListener(m.Data); ok && !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all, nil
}

// noPath keeps a namespace that is gone apart from a kernel without tcp_diag.
func noPath(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the replica is gone")
	}
	return err
}

// parseListener reads a struct inet_diag_msg with its attributes.
func parseListener(b []byte) (l listener, ok bool) {
	if len(b) < diagMessageSize || b[1] != tcpListen {
		return listener{}, false
	}
	var addr netip.Addr
	switch b[0] {
	case unix.AF_INET:
		addr = netip.AddrFrom4([4]byte(b[8:12]))
	case unix.AF_INET6:
		addr = netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	default:
		return listener{}, false
	}
	l.local = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[4:]))
	attrs, err := netlink.NewAttributeDecoder(b[diagMessageSize:])
	if err != nil {
		return l, true
	}
	for attrs.Next() {
		if attrs.Type() == diagV6Only && len(attrs.Bytes()) == 1 {
			l.only6 = attrs.Bytes()[0] != 0
		}
	}
	return l, true
}

// listenersByProc cannot tell [::] from [::] without IPv4, and takes it for
// both.
func listenersByProc(pid int) ([]listener, error) {
	have, err := sockets(pid, "tcp")
	if err != nil {
		return nil, err
	}
	var all []listener
	for _, s := range have {
		if s.state == tcpListen {
			all = append(all, listener{local: s.local})
		}
	}
	return all, nil
}
