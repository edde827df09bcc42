// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mirror holds what the kernel has announced of interfaces, addresses, default
// routes and the routes of Own, so that on a host with thousands of interfaces a
// question about them is no dump of all. No goroutine follows it: each question
// first reads what was announced since the last one. The kernel announces a change
// before it returns to who made it, so an answer is never older than the question.
// Safe for concurrent use.
//
// BPF links that attach XDP programs are not announced.
type mirror struct {
	rt *netlink.Handle

	mu       sync.Mutex
	announce announcements
	links    map[uint32]Link // nil: to be listed
	sorted   []Link          // the same, by index; nil: to be made
	addrs    map[localAddr]bool
	defaults []uint32
	owned    map[Purpose]map[netip.Addr]struct{}
	known    struct{ addrs, defaults, owned bool }
}

// loopbackIndex is that of lo in every network namespace (LOOPBACK_IFINDEX of the
// kernel).
const loopbackIndex = 1

// localAddr is an address of an interface.
type localAddr struct {
	ifindex uint32
	addr    netip.Addr
}

// openMirror subscribes; nothing is asked before the first question.
func openMirror(rt *netlink.Handle) (*mirror, error) {
	groups := append(slices.Clone(LinkEvents), RouteEvents...)
	a, err := subscribe(subscription{family: unix.NETLINK_ROUTE, groups: groups})
	if err != nil {
		return nil, err
	}
	return &mirror{rt: rt, announce: a}, nil
}

func (m *mirror) close() { m.announce.close() }

// catchUp reads what was announced. m.mu is held.
func (m *mirror) catchUp() {
	missed := m.announce.read(m.note)
	if missed {
		m.links, m.sorted = nil, nil
		m.known.addrs, m.known.defaults, m.known.owned = false, false, false
	}
}

// note takes note of one message. m.mu is held.
func (m *mirror) note(kind uint16, b []byte) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		m.noteLink(kind == unix.RTM_NEWLINK, b)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		m.noteAddr(kind == unix.RTM_NEWADDR, b)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		m.noteRoute(kind == unix.RTM_NEWROUTE, b)
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		m.known.defaults = false
	}
}

func (m *mirror) noteLink(there bool, b []byte) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return // a bridge's or a protocol's part of it
	}
	index, flags := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[8:])
	// Routes through what goes down go unannounced; those of Own lead through lo.
	if slices.Contains(m.defaults, index) {
		m.known.defaults = false
	}
	if flags&unix.IFF_LOOPBACK != 0 {
		m.known.owned = false
	}
	if m.links == nil {
		return
	}
	had, ok := m.links[index]
	if !there {
		if ok {
			delete(m.links, index)
			m.sorted = nil
		}
		return
	}
	raw, err := netlink.LinkDeserialize(nil, b)
	if err != nil {
		m.links, m.sorted = nil, nil
		return
	}
	l := linkOf(raw)
	if ok && had == l {
		return
	}
	m.links[index], m.sorted = l, nil
}

// ifaddrmsgLen is struct ifaddrmsg: family, length of the prefix, flags, scope
// (8 each), index (32).
const ifaddrmsgLen = 8

func (m *mirror) noteAddr(there bool, b []byte) {
	if !there && len(b) > 0 && b[0] == unix.AF_INET {
		// Routes that prefer this address, or lead through what has none left, go unannounced.
		m.known.defaults = false
		if len(b) >= ifaddrmsgLen && binary.NativeEndian.Uint32(b[4:]) == loopbackIndex {
			m.known.owned = false
		}
	}
	if !m.known.addrs {
		return
	}
	a, scope, ok := parseAddr(b)
	if !ok {
		m.known.addrs = false
		return
	}
	switch {
	case scope == unix.RT_SCOPE_LINK:
	case there:
		m.addrs[a] = true
	default:
		delete(m.addrs, a)
	}
}

func parseAddr(b []byte) (a localAddr, scope uint8, ok bool) {
	if len(b) < ifaddrmsgLen {
		return a, 0, false
	}
	a.ifindex, scope = binary.NativeEndian.Uint32(b[4:]), b[3]
	ad, err := mdnetlink.NewAttributeDecoder(b[ifaddrmsgLen:])
	if err != nil {
		return a, 0, false
	}
	for ad.Next() {
		// IFA_ADDRESS is the peer's where both are told.
		if ad.Type() == unix.IFA_LOCAL || ad.Type() == unix.IFA_ADDRESS && !a.addr.IsValid() {
			if ip, found := netip.AddrFromSlice(ad.Bytes()); found {
				a.addr = ip.Unmap()
			}
		}
	}
	return a, scope, ad.Err() == nil && a.addr.IsValid()
}

func (m *mirror) noteRoute(there bool, b []byte) {
	if len(b) < rtmsgLen {
		return
	}
	prefix, table, protocol := b[1], b[4], Purpose(b[5])
	if prefix == 0 {
		m.known.defaults = false
	}
	if !m.known.owned || table != unix.RT_TABLE_LOCAL || protocol != ForNames && protocol != ForHolding {
		return
	}
	ad, err := mdnetlink.NewAttributeDecoder(b[rtmsgLen:])
	if err != nil {
		m.known.owned = false
		return
	}
	for ad.Next() {
		if ad.Type() != unix.RTA_DST {
			continue
		}
		if a, ok := netip.AddrFromSlice(ad.Bytes()); ok && there {
			m.owned[protocol][a.Unmap()] = struct{}{}
		} else if ok {
			delete(m.owned[protocol], a.Unmap())
		}
	}
}

// list is Links.List; the result is shared: read only.
func (m *mirror) list() ([]Link, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.needLinks(); err != nil {
		return nil, err
	}
	if m.sorted == nil {
		m.sorted = make([]Link, 0, len(m.links))
		for _, l := range m.links {
			m.sorted = append(m.sorted, l)
		}
		slices.SortFunc(m.sorted, func(a, b Link) int { return int(a.Index) - int(b.Index) })
	}
	return m.sorted, nil
}

// link is one of list.
func (m *mirror) link(ifindex uint32) (l Link, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.needLinks(); err != nil {
		return Link{}, false, err
	}
	l, ok = m.links[ifindex]
	return l, ok, nil
}

// needLinks catches up and lists the interfaces where they are not known. m.mu is
// held.
func (m *mirror) needLinks() error {
	m.catchUp()
	if m.links != nil {
		return nil
	}
	raw, err := again(m.rt.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	m.links = make(map[uint32]Link, len(raw))
	for _, r := range raw {
		l := linkOf(r)
		m.links[l.Index] = l
	}
	return nil
}

// local is Links.Local.
func (m *mirror) local() (map[netip.Addr]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.needLinks(); err != nil {
		return nil, err
	}
	if !m.known.addrs {
		raw, err := again(func() ([]netlink.Addr, error) { return m.rt.AddrList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		m.addrs, m.known.addrs = make(map[localAddr]bool, len(raw)), true
		for _, r := range raw {
			if a, ok := netip.AddrFromSlice(r.IP); ok && r.Scope != unix.RT_SCOPE_LINK {
				m.addrs[localAddr{uint32(r.LinkIndex), a.Unmap()}] = true
			}
		}
	}
	first := make(map[netip.Addr]uint32, len(m.addrs))
	for a := range m.addrs {
		if i, ok := first[a.addr]; !ok || a.ifindex < i {
			first[a.addr] = a.ifindex
		}
	}
	local := make(map[netip.Addr]string, len(first))
	for a, i := range first {
		local[a] = m.links[i].Name
	}
	return local, nil
}

// defaultLinks is Links.Default.
func (m *mirror) defaultLinks() ([]uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.catchUp()
	if m.known.defaults {
		return slices.Clone(m.defaults), nil
	}
	var found []uint32
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := again(func() ([]netlink.Route, error) { return m.rt.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for i := range routes {
			found = append(found, defaultLinks(&routes[i])...)
		}
	}
	slices.Sort(found)
	m.defaults, m.known.defaults = slices.Compact(found), true
	return slices.Clone(m.defaults), nil
}

// own is what Own made local for a purpose.
func (m *mirror) own(why Purpose) (map[netip.Addr]bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.catchUp()
	if !m.known.owned {
		m.owned = map[Purpose]map[netip.Addr]struct{}{ForNames: {}, ForHolding: {}}
		for why, addrs := range m.owned {
			if err := m.listOwned(why, addrs); err != nil {
				return nil, err
			}
		}
		m.known.owned = true
	}
	have := make(map[netip.Addr]bool, len(m.owned[why]))
	for a := range m.owned[why] {
		have[a] = true
	}
	return have, nil
}

func (m *mirror) listOwned(why Purpose, into map[netip.Addr]struct{}) error {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: netlink.RouteProtocol(why)}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := again(func() ([]netlink.Route, error) {
			return m.rt.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return fmt.Errorf("list local routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
				into[a.Unmap()] = struct{}{}
			}
		}
	}
	return nil
}
