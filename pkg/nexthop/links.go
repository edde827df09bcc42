// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Link is an interface of this network namespace as the kernel tells it.
type Link struct {
	Index    uint32
	Name     string
	Kind     string // rtnetlink kind: "veth", "bridge" …; empty for real hardware
	MAC      [6]byte
	MTU      uint32 // the longest IP packet it takes, in bytes
	Up       bool
	Loopback bool
	Raw      bool   // its frames have no Ethernet header: tun, PPP, WireGuard, tunnels of IP packets
	Peer     bool   // a veth whose peer lives in another namespace
	XDPMode  string // "native", "generic", "offload" or "several"; empty: no XDP program
	XDPProg  uint32 // id of the XDP program
}

// Links answers questions about interfaces, their addresses and what their
// drivers can do. Its sockets stay in the network namespace in which
// OpenLinks was called, whatever thread asks later. Safe for concurrent use.
type Links struct {
	rt      *netlink.Handle
	mirror  *mirror
	raw     *mdnetlink.Conn
	asker   *asker
	generic *mdnetlink.Conn
	netdev  genlFamily // id 0: the kernel (before 6.3) has none
	drivers *drivers
}

// OpenLinks opens the netlink sockets. The caller closes them with Close.
func OpenLinks() (*Links, error) {
	rt, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	l := &Links{rt: rt}
	if err := rt.SetSocketTimeout(10 * time.Second); err != nil {
		l.Close()
		return nil, fmt.Errorf("set rtnetlink timeout: %w", err)
	}
	if l.mirror, err = openMirror(rt); err != nil {
		l.Close()
		return nil, err
	}
	if l.raw, err = mdnetlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		l.Close()
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if l.asker, err = openAsker(); err != nil {
		l.Close()
		return nil, err
	}
	if l.generic, err = mdnetlink.Dial(unix.NETLINK_GENERIC, nil); err != nil {
		l.Close()
		return nil, fmt.Errorf("open generic netlink socket: %w", err)
	}
	if l.netdev, err = lookupFamily(l.generic, "netdev"); err != nil && !errors.Is(err, unix.ENOENT) {
		l.Close()
		return nil, fmt.Errorf("look up the netdev family: %w", err)
	}
	if l.drivers, err = openDrivers(l.netdev); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close closes the sockets.
func (l *Links) Close() {
	l.rt.Close()
	if l.mirror != nil {
		l.mirror.close()
	}
	if l.drivers != nil {
		l.drivers.close()
	}
	if l.raw != nil {
		_ = l.raw.Close()
	}
	if l.asker != nil {
		l.asker.close()
	}
	if l.generic != nil {
		_ = l.generic.Close()
	}
}

// List lists all interfaces, by index. The result is shared: read only. An XDP
// program that a BPF link attached, or took off, may not be told of; ByIndex asks
// the kernel.
func (l *Links) List() ([]Link, error) { return l.mirror.list() }

// ByIndex tells about one interface.
func (l *Links) ByIndex(ifindex uint32) (Link, error) {
	r, err := l.rt.LinkByIndex(int(ifindex))
	if err != nil {
		return Link{}, fmt.Errorf("look up interface %d: %w", ifindex, err)
	}
	return linkOf(r), nil
}

// Default lists the interfaces of the default routes of both families in the
// main table, by index, every one once.
func (l *Links) Default() ([]uint32, error) { return l.mirror.defaultLinks() }

// defaultLinks lists the interfaces of r if it is a default route that leads
// somewhere ("unreachable default" leads nowhere).
func defaultLinks(r *netlink.Route) []uint32 {
	if r.Type != unix.RTN_UNICAST {
		return nil
	}
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones != 0 {
			return nil
		}
	}
	var found []uint32
	if r.LinkIndex > 0 {
		found = append(found, uint32(r.LinkIndex))
	}
	for _, hop := range r.MultiPath {
		if hop.LinkIndex > 0 {
			found = append(found, uint32(hop.LinkIndex))
		}
	}
	return found
}

// Addrs lists the global addresses of an interface, IPv4 first.
func (l *Links) Addrs(ifindex uint32) ([]netip.Addr, error) {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(ifindex)}}
	raw, err := again(func() ([]netlink.Addr, error) { return l.rt.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of interface %d: %w", ifindex, err)
	}
	var addrs []netip.Addr
	for _, r := range raw {
		if r.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs, nil
}

// Local lists the addresses of all interfaces with the interface's name, the first
// one's where several have it; those of one link alone (fe80::/10) are left out.
func (l *Links) Local() (map[netip.Addr]string, error) { return l.mirror.local() }

func linkOf(r netlink.Link) Link {
	at := r.Attrs()
	l := Link{
		Index: uint32(at.Index), Name: at.Name, MTU: uint32(at.MTU),
		Up:       at.Flags&net.FlagUp != 0,
		Loopback: at.Flags&net.FlagLoopback != 0,
	}
	l.Raw = !l.Loopback && at.EncapType != "ether" // the loopback's header is Ethernet's, too
	if kind := r.Type(); kind != "device" {        // "device" is the library's word for no kind
		l.Kind = kind
	}
	if len(at.HardwareAddr) == len(l.MAC) {
		copy(l.MAC[:], at.HardwareAddr)
	}
	// The kernel sends IFLA_LINK_NETNSID only if the other end is elsewhere.
	l.Peer = l.Kind == "veth" && at.NetNsID >= 0
	if x := at.Xdp; x != nil && x.Attached {
		l.XDPProg = x.ProgId
		l.XDPMode = map[uint32]string{
			nlXDPNative: "native", nlXDPGeneric: "generic", nlXDPOffload: "offload",
		}[x.AttachMode]
		if l.XDPMode == "" {
			l.XDPMode = "several"
		}
	}
	return l
}

// IFLA_XDP_ATTACHED (include/uapi/linux/if_link.h).
const (
	nlXDPNative  = 1
	nlXDPGeneric = 2
	nlXDPOffload = 3
)

// again repeats a dump that the kernel says was interrupted by a change; the
// last attempt's answer counts even if it was interrupted too, because the
// change that did it is announced and leads to another look.
func again[T any](dump func() ([]T, error)) ([]T, error) {
	for range 4 {
		if found, err := dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
	}
	found, err := dump()
	if errors.Is(err, netlink.ErrDumpInterrupted) {
		err = nil
	}
	return found, err
}
