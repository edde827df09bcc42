// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Purpose is what addresses are made local for. It is the rtm_protocol of the
// routes that Own makes; the kernel and known daemons use others.
type Purpose int

// The purposes.
const (
	ForNames   Purpose = 241 // the name server's address
	ForHolding Purpose = 242 // VIPs whose connections this host may hold
)

// Own makes exactly these addresses local to this host for a purpose, and takes
// away those that an earlier call for it, or an earlier agent, made and that are not among them.
// An address becomes local by a route of table local to lo: no interface gets
// it, so it is not announced, and nothing takes it for the host's own. One that
// the host has anyway is left alone. It returns what it took away.
func (l *Links) Own(why Purpose, addrs []netip.Addr) (removed []netip.Addr, err error) {
	have, err := l.mirror.own(why)
	if err != nil {
		return nil, err
	}
	lo, err := l.rt.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find lo: %w", err)
	}
	for _, a := range addrs {
		if have[a] {
			delete(have, a)
			continue
		}
		if err := l.rt.RouteAdd(localRoute(why, a, lo.Attrs().Index)); err != nil && !errors.Is(err, unix.EEXIST) {
			if errors.Is(err, unix.ENETDOWN) {
				err = errors.New("the interface lo is down")
			}
			return nil, fmt.Errorf("make %s an address of this host: %w", a, err)
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(have), netip.Addr.Compare) {
		if err := l.rt.RouteDel(localRoute(why, a, lo.Attrs().Index)); err != nil && !errors.Is(err, unix.ESRCH) {
			return removed, fmt.Errorf("take %s from this host: %w", a, err)
		}
		removed = append(removed, a)
	}
	return removed, nil
}

func localRoute(why Purpose, a netip.Addr, lo int) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: lo, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: netlink.RouteProtocol(why),
		Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
	}
	if a.Is4() {
		r.Scope = netlink.SCOPE_HOST
	}
	return r
}
