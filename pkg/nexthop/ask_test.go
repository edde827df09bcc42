// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/nexthop/nstest"
)

// Issue "L4 ahead of every anchor", 2: the many replicas of a restart are asked
// for together. What is heard about each is what it would have been alone, and
// the way that serves where that fails says the same.
func TestManyAreResolvedAsEachAlone(t *testing.T) {
	ns := nstest.New(t)
	near := ns.Veth(t, "veth0", []string{"10.1.0.1/16", "fd00:1::1/64"}, "eth0", []string{"10.1.0.2/16", "fd00:1::2/64"})
	index := near.Attrs().Index
	known := func(ip string, last byte) {
		t.Helper()
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: index, IP: net.ParseIP(ip), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 1, last}, State: netlink.NUD_PERMANENT,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	known("10.1.0.9", 9)
	known("fd00:1::9", 9)
	route(t, netlink.RouteAdd, "192.168.0.0/16", netlink.Route{LinkIndex: index, Gw: net.ParseIP("10.1.0.9")})
	route(t, netlink.RouteAdd, "fd00:2::/64", netlink.Route{LinkIndex: index, Gw: net.ParseIP("fd00:1::9")})
	route(t, netlink.RouteAdd, "192.168.7.0/24", netlink.Route{LinkIndex: index, Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("fd00:1::9")}})
	for dst, kind := range map[string]int{
		"192.168.8.0/24": unix.RTN_UNREACHABLE, "192.168.9.0/24": unix.RTN_BLACKHOLE, "fd00:3::/64": unix.RTN_PROHIBIT,
	} {
		route(t, netlink.RouteAdd, dst, netlink.Route{Type: kind})
		t.Cleanup(func() { route(t, netlink.RouteDel, dst, netlink.Route{Type: kind}) }) // it goes with no interface
	}

	var addrs []netip.Addr
	for i := range 3*asksAtOnce + 5 {
		addrs = append(addrs, netip.AddrFrom4([4]byte{192, 168, byte(i % 12), byte(i)}), a(fmt.Sprintf("fd00:%d::%x", 1+i%4, i+16)))
	}
	for i := range 5 {
		known(fmt.Sprintf("10.1.2.%d", i), byte(i))
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, 1, 2, byte(i)}))
	}
	addrs = append(addrs, a("10.1.0.1"), a("fd00:1::1"), a("127.0.0.1"), a("10.1.255.255"), a("224.0.0.1"), a("fe80::7%veth0"), a("8.8.8.8"))

	links := open(t).links
	at := func(as ...netip.Addr) []Hop {
		hops, _ := (&pass{links: links, seen: map[uint32]seenLink{}}).resolve(as)
		return hops
	}
	nstest.Until(t, "fd00:1::1 is found to be unique", func() bool { return at(a("fd00:1::1"))[0].Local })
	resolved := 0
	for i, hop := range at(addrs...) {
		if alone := at(addrs[i])[0]; hop != alone {
			t.Errorf("among many: %+v\nalone:      %+v", hop, alone)
		}
		p := pass{links: links, seen: map[uint32]seenLink{}}
		slow := p.hop(addrs[i], links.route(addrs[i]))
		if slow.led() {
			if n, err := links.neighbour(slow.neighbour()); err == nil && n.state&nudKnown != 0 {
				slow.MAC = n.mac
			}
		}
		if hop != slow {
			t.Errorf("among many: %+v\nthe slow way: %+v", hop, slow)
		}
		if hop.Resolved() {
			resolved++
		}
	}
	if resolved < 2*asksAtOnce {
		t.Errorf("only %d of %d addresses lead to a neighbour: the test looks at little", resolved, len(addrs))
	}
}
