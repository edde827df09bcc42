// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"net/netip"

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

// resolve asks the kernel where addresses lead now: the FIB's decisions, policy
// routing included, then the neighbour entries. states are those entries', 0
// where there is none to ask for.
func (p *pass) resolve(addrs []netip.Addr) (hops []Hop, states []uint16) {
	hops, states = make([]Hop, len(addrs)), make([]uint16, len(addrs))
	neighbours := map[neighKey]neighbour{}
	for i, r := range p.links.routes(addrs) {
		hops[i] = p.hop(addrs[i], r)
		if hops[i].led() {
			neighbours[hops[i].neighbour()] = neighbour{}
		}
	}
	p.links.neighbours(neighbours)
	for i := range hops {
		h := &hops[i]
		if !h.led() {
			continue
		}
		n := neighbours[h.neighbour()]
		if states[i] = n.state; n.state&nudKnown != 0 {
			h.MAC = n.mac
		}
	}
	return hops, states
}

// led tells whether a hop is behind a neighbour.
func (h *Hop) led() bool { return h.IfIndex != 0 && !h.Local }

// hop is where a route leads, without the neighbour.
func (p *pass) hop(addr netip.Addr, r decision) Hop {
	hop := Hop{Addr: addr}
	if r.err != nil {
		hop.Err = fmt.Sprintf("no route to %s: %s", addr, reason(r.err))
		return hop
	}
	switch r.kind {
	case unix.RTN_UNICAST, unix.RTN_LOCAL, unix.RTN_UNSPEC:
	default:
		hop.Err = fmt.Sprintf("no route to %s: %s", addr, typeWords(r.kind))
		return hop
	}
	link := p.link(r.ifindex)
	if link.err != nil {
		hop.Err = fmt.Sprintf("no route to %s: interface %d: %s", addr, r.ifindex, link.err)
		return hop
	}
	hop.IfIndex, hop.IfName, hop.SrcMAC = link.Index, link.Name, link.MAC
	if r.kind == unix.RTN_LOCAL {
		hop.Local = true
		return hop
	}
	hop.Raw, hop.Peer, hop.XDPXmit, hop.Gateway = link.Raw, link.Peer, link.xmit, r.gateway
	return hop
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
	link, ok, err := p.links.mirror.link(ifindex)
	if !ok {
		link, err = p.links.ByIndex(ifindex)
	}
	l := seenLink{Link: link, err: err}
	if err == nil {
		l.xmit = p.links.XDPXmit(link)
	}
	p.seen[ifindex] = l
	return l
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
