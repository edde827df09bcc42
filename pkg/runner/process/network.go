// SPDX-License-Identifier: Apache-2.0

package process

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inside is the name of the replica's end of the veth.
const inside = "eth0"

// hop is one address of a replica with the gateway it sees.
type hop struct{ addr, gateway netip.Addr }

// hops lists the replica's addresses, IPv4 first.
func (rec record) hops() []hop {
	var hs []hop
	for _, h := range []hop{{rec.Addr4, rec.Gateway4}, {rec.Addr6, rec.Gateway6}} {
		if h.addr.IsValid() {
			hs = append(hs, h)
		}
	}
	return hs
}

// all is one address of every hop.
func (rec record) all(which func(hop) netip.Addr) (addrs []netip.Addr) {
	for _, x := range rec.hops() {
		addrs = append(addrs, which(x))
	}
	return addrs
}

// connect makes, or mends, the replica's namespace and its link to the host.
// Neighbours are permanent on both sides, so the link carries neither ARP nor
// neighbour discovery and no packet waits for an answer.
func connect(rec record, p paths) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := collides(h, rec); err != nil {
		return err
	}
	if !pinned(p.netns) {
		if err := errors.Join(removeLink(h, p.link), makeNetns(p.netns)); err != nil {
			return err
		}
	}
	link, err := h.LinkByName(p.link)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		link, err = makeVeth(h, p)
	}
	if err != nil {
		return explain(fmt.Errorf("make link %s: %w", p.link, err))
	}
	if err := setUpHost(h, link, rec); err != nil {
		return explain(fmt.Errorf("set up link %s: %w", p.link, err))
	}
	if err := within(p.netns, func() error { return setUpInside(rec, p.link) }); err != nil {
		return fmt.Errorf("set up network inside the replica: %w", err)
	}
	if err := errors.Join(addRoutes(h, link, rec), awaitCarrier(h, link), awaitLocal(h, rec.all(func(x hop) netip.Addr { return x.gateway }))); err != nil {
		return fmt.Errorf("set up link %s: %w", p.link, err)
	}
	return nil
}

// makeVeth makes both ends. They get their MAC addresses at once: a udev that
// finds a random one would replace it and make the neighbour entries wrong.
func makeVeth(h *netlink.Handle, p paths) (netlink.Link, error) {
	ns, err := unix.Open(p.netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(ns) }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = p.link, macOf(p.link)
	if attrs.MTU, err = uplinkMTU(h); err != nil {
		return nil, err
	}
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: inside, PeerHardwareAddr: macOf(p.link + inside), PeerMTU: uint32(attrs.MTU),
		PeerNamespace: netlink.NsFd(ns),
	}
	if err := h.LinkAdd(veth); err != nil {
		return nil, err
	}
	return h.LinkByName(p.link)
}

func removeLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return explain(fmt.Errorf("remove link %s: %w", name, err))
	}
	return nil
}

// macOf makes a locally administered unicast address of a name.
func macOf(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

// setUpHost gives the host's end the gateway addresses and brings it up.
func setUpHost(h *netlink.Handle, link netlink.Link, rec record) error {
	name := link.Attrs().Name
	settings := []setting{{"ipv4", "forwarding", "1"}, {"ipv4", "rp_filter", "0"}}
	if rec.Addr6.IsValid() {
		settings = append(settings, setting{"ipv6", "addr_gen_mode", "1"}, setting{"ipv6", "accept_ra", "0"})
		if !hasRouterDefault() {
			settings = append(settings, setting{"ipv6", "forwarding", "1"})
		}
	}
	if err := apply(name, settings); err != nil {
		return err
	}
	if err := addAddresses(h, link, rec, func(x hop) netip.Addr { return x.gateway }); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	return offload(name)
}

// setUpInside runs on a thread in the replica's namespace.
func setUpInside(rec record, hostLink string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	link, err := h.LinkByName(inside)
	if err != nil {
		return fmt.Errorf("find %s: %w", inside, err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0); err != nil {
		return explain(err)
	}
	if rec.Addr6.IsValid() {
		err := errors.Join(apply("lo", []setting{{"ipv6", "disable_ipv6", "0"}}), apply(inside, []setting{
			{"ipv6", "disable_ipv6", "0"}, {"ipv6", "addr_gen_mode", "1"}, {"ipv6", "accept_ra", "0"},
		}))
		if err != nil {
			return err
		}
	}
	if err := addAddresses(h, link, rec, func(x hop) netip.Addr { return x.addr }); err != nil {
		return err
	}
	if err := errors.Join(h.LinkSetUp(lo), h.LinkSetUp(link), offload(inside)); err != nil {
		return err
	}
	for _, x := range rec.hops() {
		if err := setNeighbour(h, link, x.gateway, macOf(hostLink)); err != nil {
			return err
		}
		err := h.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Gw: x.gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Family: family(x.addr),
			Dst: &net.IPNet{IP: make(net.IP, x.addr.BitLen()/8), Mask: net.CIDRMask(0, x.addr.BitLen())},
		})
		if err != nil {
			return fmt.Errorf("add default route via %s: %w", x.gateway, err)
		}
	}
	return awaitLocal(h, rec.all(func(x hop) netip.Addr { return x.addr }))
}

func addAddresses(h *netlink.Handle, link netlink.Link, rec record, which func(hop) netip.Addr) error {
	for _, x := range rec.hops() {
		a := which(x)
		addr := &netlink.Addr{IPNet: single(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	return nil
}

// addRoutes makes the host reach the replica, and only through its link.
func addRoutes(h *netlink.Handle, link netlink.Link, rec record) error {
	for _, x := range rec.hops() {
		if err := setNeighbour(h, link, x.addr, macOf(link.Attrs().Name+inside)); err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(x.addr), Src: x.gateway.AsSlice(), Family: family(x.addr)}
		if x.addr.Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
		err := h.RouteAdd(route)
		if errors.Is(err, unix.EEXIST) {
			err = otherRoute(h, route)
		}
		if err != nil {
			return fmt.Errorf("add route to %s: %w", x.addr, err)
		}
	}
	return nil
}

// otherRoute is the error about a route to the same address that is not ours.
func otherRoute(h *netlink.Handle, route *netlink.Route) error {
	found, err := h.RouteListFiltered(route.Family, &netlink.Route{Dst: route.Dst}, netlink.RT_FILTER_DST)
	if err != nil {
		return err
	}
	for _, f := range found {
		if f.LinkIndex == route.LinkIndex {
			return nil
		}
	}
	return fmt.Errorf("the host has another route to it (%v); choose another range in network.workloads", found)
}

func setNeighbour(h *netlink.Handle, link netlink.Link, a netip.Addr, mac net.HardwareAddr) error {
	err := h.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: family(a), State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s: %w", a, err)
	}
	return nil
}

// collides refuses addresses that the host itself has, on a link not ours.
func collides(h *netlink.Handle, rec record) error {
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	for range 4 { // others come and go
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		addrs, err = h.AddrList(nil, netlink.FAMILY_ALL)
	}
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		for _, x := range rec.hops() {
			if ip.Unmap() != x.addr && ip.Unmap() != x.gateway {
				continue
			}
			link, err := linkName(a.LinkIndex)
			if err == nil && !strings.HasPrefix(link, "fl-") {
				return fmt.Errorf("address %s is the host's own, on %s; choose another range in network.workloads", ip, link)
			}
		}
	}
	return nil
}

// linkName asks for the name alone: every replica's link has the gateway's
// address, and all that netlink tells of so many links takes long.
func linkName(index int) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	q, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	q.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, q); err != nil {
		return "", err
	}
	return q.Name(), nil
}

func offload(link string) error {
	if err := enableGRO(link); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return explain(fmt.Errorf("enable GRO on %s: %w", link, err))
	}
	return nil
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}
