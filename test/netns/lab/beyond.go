// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"testing"
)

// Far is a machine two hops away from the node:
//
//	node ── Near 10.3.k.1 ──MTU── 10.3.k.2 Hop 10.2.k.1 ── 10.2.k.2 NS
//
// IPv6 is alike: fd00:3:k::1 and so on. Every link but the middle one carries
// 1 500 bytes.
type Far struct {
	NS    *Netns
	Hop   *Netns
	Near  *Netns
	Addr4 netip.Addr
	Addr6 netip.Addr
}

// Addr is its address in a family.
func (f *Far) Addr(family Family) netip.Addr {
	if family == V6 {
		return f.Addr6
	}
	return f.Addr4
}

// FarClient is a client behind the lab's client.
func (l *Lab) FarClient(t testing.TB, mtu int) *Far {
	t.Helper()
	return l.beyond(t, 9, l.Client, "up0", Client4, Client6, mtu)
}

// FarReplica is a replica behind the lab's first one; its name says so.
func (l *Lab) FarReplica(t testing.TB, mtu int) (*Replica, *Far) {
	t.Helper()
	near := l.Replicas[0]
	f := l.beyond(t, 1, near.NS, "rep1", near.Addr4, near.Addr6, mtu)
	return &Replica{Name: "far-replica", NS: f.NS, Addr4: f.Addr4, Addr6: f.Addr6}, f
}

func (l *Lab) beyond(t testing.TB, k int, near *Netns, dev string, via4, via6 netip.Addr, mtu int) *Far {
	f := &Far{
		NS: newNetns(t, l.name(fmt.Sprintf("far%d", k))), Hop: newNetns(t, l.name(fmt.Sprintf("hop%d", k))), Near: near,
		Addr4: netip.AddrFrom4([4]byte{10, 2, byte(k), 2}), Addr6: netip.MustParseAddr(fmt.Sprintf("fd00:2:%d::2", k)),
	}
	near.Veth(t, "out0", f.Hop, "in0")
	f.Hop.Veth(t, "out0", f.NS, "eth0")
	near.ip(t, fmt.Sprintf("link set out0 mtu %d", mtu),
		fmt.Sprintf("addr add 10.3.%d.1/24 dev out0", k), fmt.Sprintf("addr add fd00:3:%d::1/64 dev out0 nodad", k),
		fmt.Sprintf("route add 10.2.%d.0/24 via 10.3.%d.2", k, k), fmt.Sprintf("route add fd00:2:%d::/64 via fd00:3:%d::2", k, k))
	f.Hop.ip(t, fmt.Sprintf("link set in0 mtu %d", mtu),
		fmt.Sprintf("addr add 10.3.%d.2/24 dev in0", k), fmt.Sprintf("addr add fd00:3:%d::2/64 dev in0 nodad", k),
		fmt.Sprintf("addr add 10.2.%d.1/24 dev out0", k), fmt.Sprintf("addr add fd00:2:%d::1/64 dev out0 nodad", k),
		fmt.Sprintf("route add default via 10.3.%d.1", k), fmt.Sprintf("route add default via fd00:3:%d::1", k))
	f.NS.ip(t, fmt.Sprintf("addr add %s/24 dev eth0", f.Addr4), fmt.Sprintf("addr add %s/64 dev eth0 nodad", f.Addr6),
		fmt.Sprintf("route add default via 10.2.%d.1", k), fmt.Sprintf("route add default via fd00:2:%d::1", k))
	l.Node.ip(t, fmt.Sprintf("route add 10.2.%d.0/24 via %s dev %s", k, via4, dev), fmt.Sprintf("route add 10.3.%d.0/24 via %s dev %s", k, via4, dev),
		fmt.Sprintf("route add fd00:2:%d::/64 via %s dev %s", k, via6, dev), fmt.Sprintf("route add fd00:3:%d::/64 via %s dev %s", k, via6, dev))
	for _, n := range []*Netns{near, f.Hop} {
		n.Sysctl(t, "net/ipv4/ip_forward", "1")
		n.Sysctl(t, "net/ipv6/conf/all/forwarding", "1")
	}
	for _, n := range []*Netns{near, f.Hop, f.NS} {
		n.EveryError(t)
	}
	return f
}

// Mute has the hops of the middle link send no ICMP errors, as careless
// firewalls do.
func (f *Far) Mute(t testing.TB) {
	t.Helper()
	for _, n := range []*Netns{f.Near, f.Hop} {
		n.Run(t, "nft", "add table inet mute; add chain inet mute out { type filter hook output priority 0; };"+
			"add rule inet mute out icmp type { destination-unreachable, time-exceeded } drop;"+
			"add rule inet mute out icmpv6 type { packet-too-big, destination-unreachable, time-exceeded } drop")
	}
}

// EveryError lifts the limits on how many ICMP errors the namespace sends.
func (n *Netns) EveryError(t testing.TB) {
	t.Helper()
	n.Sysctl(t, "net/ipv4/icmp_ratelimit", "0")
	n.Sysctl(t, "net/ipv6/icmp/ratelimit", "0")
}
