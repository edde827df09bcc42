// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pass resolves addresses and remembers what it learnt about interfaces, which
// is true for one pass only.
type pass struct {
	links *Links
	seen  map[uint32]seenLink
}

type seenLink struct {
	Link
	xmit bool
	err  error
}

// resolve asks the kernel where addr leads now: the FIB's decision, policy
// routing included, then the neighbour entry. known is the neighbour's state,
// 0 if there is no entry to ask for.
func (p *pass) resolve(addr netip.Addr) (hop Hop, state uint16) {
	hop.Addr = addr
	route, err := p.links.route(addr)
	if err != nil {
		hop.Err = fmt.Sprintf("no route to %s: %s", addr, reason(err))
		return hop, 0
	}
	switch route.Type {
	case unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_UNSPEC:
	default:
		hop.Err = fmt.Sprintf("no route to %s: %s", addr, typeWords(route.Type))
		return hop, 0
	}
	link := p.link(uint32(route.LinkIndex))
	if link.err != nil {
		hop.Err = fmt.Sprintf("no route to %s: interface %d: %s", addr, route.LinkIndex, link.err)
		return hop, 0
	}
	hop.IfIndex, hop.IfName, hop.SrcMAC = link.Index, link.Name, link.MAC
	if route.Type == unix.RTN_LOCAL {
		hop.Local = true
		return hop, 0
	}
	hop.Raw, hop.Peer, hop.XDPXmit, hop.Gateway = link.Raw, link.Peer, link.xmit, gateway(&route)
	n, err := p.links.neighbour(hop.neighbour())
	if err != nil || n.state&nudKnown == 0 {
		return hop, n.state
	}
	hop.MAC = n.mac
	return hop, n.state
}

// neighbour names the entry that holds the hop's MAC address.
func (h Hop) neighbour() neighKey {
	k := neighKey{ifindex: h.IfIndex, addr: h.Addr}
	if h.Gateway.IsValid() {
		k.addr = h.Gateway
	}
	k.addr = k.addr.WithZone("")
	return k
}

func (p *pass) link(ifindex uint32) seenLink {
	if l, ok := p.seen[ifindex]; ok {
		return l
	}
	link, err := p.links.ByIndex(ifindex)
	l := seenLink{Link: link, err: err}
	if err == nil {
		l.xmit = p.links.XDPXmit(link)
	}
	p.seen[ifindex] = l
	return l
}

// route asks for the kernel's decision about one destination.
func (l *Links) route(addr netip.Addr) (netlink.Route, error) {
	var opts *netlink.RouteGetOptions
	if zone := addr.Zone(); zone != "" {
		opts = &netlink.RouteGetOptions{Oif: zone}
	}
	routes, err := l.rt.RouteGetWithOptions(net.IP(addr.AsSlice()), opts)
	if err != nil {
		return netlink.Route{}, err
	}
	if len(routes) == 0 {
		return netlink.Route{}, errors.New("the kernel gave no answer")
	}
	return routes[0], nil
}

func gateway(r *netlink.Route) netip.Addr {
	if gw, ok := netip.AddrFromSlice(r.Gw); ok && !gw.IsUnspecified() {
		return gw.Unmap()
	}
	if via, ok := r.Via.(*netlink.Via); ok { // an IPv4 route via an IPv6 neighbour
		if gw, ok := netip.AddrFromSlice(via.Addr); ok {
			return gw.Unmap()
		}
	}
	return netip.Addr{}
}

// reason says a route error in words: the kernel answers with the error a
// route of that type gives to a packet.
func reason(err error) string {
	switch {
	case errors.Is(err, unix.ENETUNREACH):
		return "no route matches; add one (ip route add)"
	case errors.Is(err, unix.EHOSTUNREACH):
		return "a route says unreachable"
	case errors.Is(err, unix.EACCES):
		return "a route or rule prohibits it"
	case errors.Is(err, unix.EINVAL):
		return "a blackhole route takes it, or the address is none a route can lead to"
	}
	return err.Error()
}

func typeWords(routeType int) string {
	switch routeType {
	case unix.RTN_BROADCAST:
		return "it is a broadcast address"
	case unix.RTN_MULTICAST:
		return "it is a multicast address"
	case unix.RTN_ANYCAST:
		return "it is an anycast address of this node"
	case unix.RTN_BLACKHOLE:
		return "a blackhole route takes it"
	case unix.RTN_UNREACHABLE:
		return "a route says unreachable"
	case unix.RTN_PROHIBIT:
		return "a route prohibits it"
	}
	return fmt.Sprintf("its route has type %d", routeType)
}
