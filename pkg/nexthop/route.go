// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// decision is what the FIB says about one destination.
type decision struct {
	kind    int // RTN_*
	ifindex uint32
	gateway netip.Addr // invalid: on link
	err     error
}

// rtmsgLen is struct rtmsg: family, the lengths of both prefixes, tos, table,
// protocol, scope, type, flags (32).
const rtmsgLen = 12

// routes asks for the decisions about some destinations.
func (l *Links) routes(addrs []netip.Addr) []decision {
	out := make([]decision, len(addrs))
	answered := make([]bool, len(addrs))
	var buf []byte
	err := l.asker.ask(len(addrs), func(i int) question {
		buf = rtmsg(buf[:0], addrs[i])
		return question{kind: unix.RTM_GETROUTE, data: buf}
	}, func(i int, is answer) {
		answered[i] = addrs[i].Zone() == ""
		if out[i] = (decision{err: is.err}); is.err == nil {
			out[i] = parseRoute(is.data)
		}
	})
	if err == nil && !hasZone(addrs) {
		return out
	}
	for i, a := range addrs { // of one link, or nothing was heard
		if !answered[i] {
			out[i] = l.route(a)
		}
	}
	return out
}

func hasZone(addrs []netip.Addr) bool {
	for _, a := range addrs {
		if a.Zone() != "" {
			return true
		}
	}
	return false
}

// rtmsg builds a struct rtmsg followed by RTA_DST.
func rtmsg(b []byte, to netip.Addr) []byte {
	family := uint8(unix.AF_INET)
	if to.Is6() {
		family = unix.AF_INET6
	}
	b = append(b, family, uint8(to.BitLen()), 0, 0, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, unix.RTM_F_LOOKUP_TABLE)
	b = binary.NativeEndian.AppendUint16(b, uint16(4+to.BitLen()/8))
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_DST)
	if to.Is6() {
		ip := to.As16()
		return append(b, ip[:]...)
	}
	ip := to.As4()
	return append(b, ip[:]...)
}

// parseRoute reads an RTM_NEWROUTE message.
func parseRoute(b []byte) (r decision) {
	if len(b) < rtmsgLen {
		return decision{err: errNoAnswer}
	}
	r.kind = int(b[7])
	ad, err := mdnetlink.NewAttributeDecoder(b[rtmsgLen:])
	if err != nil {
		return decision{err: err}
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.RTA_OIF:
			r.ifindex = ad.Uint32()
		case unix.RTA_GATEWAY:
			r.setGateway(ad.Bytes())
		case unix.RTA_VIA: // an IPv4 route via an IPv6 neighbour: struct rtvia begins with its family
			if via := ad.Bytes(); len(via) > 2 {
				r.setGateway(via[2:])
			}
		}
	}
	if err := ad.Err(); err != nil {
		return decision{err: err}
	}
	return r
}

// setGateway notes a gateway; the unspecified address is none.
func (r *decision) setGateway(ip []byte) {
	if gw, ok := netip.AddrFromSlice(ip); ok && !gw.IsUnspecified() {
		r.gateway = gw.Unmap()
	}
}

var errNoAnswer = errors.New("the kernel gave no answer")

// route asks for the decision about one destination, which may be of one link.
func (l *Links) route(addr netip.Addr) decision {
	var opts *netlink.RouteGetOptions
	if zone := addr.Zone(); zone != "" {
		opts = &netlink.RouteGetOptions{Oif: zone}
	}
	routes, err := l.rt.RouteGetWithOptions(net.IP(addr.AsSlice()), opts)
	if err != nil {
		return decision{err: err}
	}
	if len(routes) == 0 {
		return decision{err: errNoAnswer}
	}
	r := decision{kind: routes[0].Type, ifindex: uint32(routes[0].LinkIndex)}
	r.setGateway(routes[0].Gw)
	if via, ok := routes[0].Via.(*netlink.Via); ok {
		r.setGateway(via.Addr)
	}
	return r
}
