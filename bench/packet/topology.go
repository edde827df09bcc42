// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

var (
	nodeMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	routerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	backMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 3}
)

// topology gives the namespace one wire: clients are behind a router on it,
// backends are on it too. Nothing but the programs decides what a packet costs.
func topology() (wire uint32, err error) {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wire0", HardwareAddr: nodeMAC}, PeerName: "wire1"}
	if err := netlink.LinkAdd(veth); err != nil {
		return 0, err
	}
	for _, name := range []string{"lo", "wire1", "wire0"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return 0, err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return 0, err
		}
		wire = uint32(l.Attrs().Index)
	}
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0o644); err != nil {
			return 0, err
		}
	}
	for _, r := range []struct{ addr, router, route string }{
		{"192.0.2.1/24", "192.0.2.2", "0.0.0.0/0"},
		{"2001:db8::1/64", "2001:db8::2", "::/0"},
	} {
		if err := route(wire, r.addr, r.router, r.route); err != nil {
			return 0, err
		}
	}
	return wire, nil
}

func route(wire uint32, address, router, to string) error {
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	addr.Flags = syscall.IFA_F_NODAD
	if err := netlink.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(wire)}}, addr); err != nil {
		return err
	}
	if err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: int(wire), State: netlink.NUD_PERMANENT, IP: net.ParseIP(router), HardwareAddr: routerMAC,
	}); err != nil {
		return err
	}
	_, dst, err := net.ParseCIDR(to)
	if err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{LinkIndex: int(wire), Dst: dst, Gw: net.ParseIP(router)})
}

// onWire leads to every backend over the one wire.
type onWire struct{ ifindex uint32 }

func (onWire) Track([]netip.Addr)       {}
func (onWire) Follow(_, _ []netip.Addr) {}

func (w onWire) Lookup(a netip.Addr) nexthop.Hop {
	return nexthop.Hop{
		Addr: a, IfIndex: w.ifindex, IfName: "wire0", MAC: [6]byte(backMAC), SrcMAC: [6]byte(nodeMAC), XDPXmit: true,
	}
}
