// SPDX-License-Identifier: Apache-2.0

// Package lab builds small networks out of namespaces and runs fairlead in
// them: a client, a node that balances, three replicas; with real sockets at
// both ends. Everything it makes carries the run's prefix and is removed when
// the test ends, however it ends. It needs root and the tools that
// scripts/setup.sh installs; it proves nothing by itself.
//
//	client eth0 198.51.100.2 ── up0 node rep1 ── eth0 10.1.1.2 replica 1
//	            fd00:c::2                rep2 ── eth0 10.1.2.2 replica 2
//	                                     rep3 ── eth0 10.1.3.2 replica 3
//
// IPv6 is alike: replica k is fd00:1:k::2. The client routes the networks of
// virtual IPs to the node; replicas have it as their default route.
package lab

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/test/feature"
)

// Mode is one way of attaching the data plane.
type Mode struct {
	Name   string
	Attach string // node.attach
	TC     string // node.tc
}

// XDP tells whether clients' packets meet an XDP program.
func (m Mode) XDP() bool { return strings.HasPrefix(m.Attach, "xdp-") }

// Offloads tells whether large TCP segments reach the data plane: XDP gets
// frames of at most one MTU.
func (m Mode) Offloads() bool { return !m.XDP() }

// Modes lists the ways that every test of the data plane is run, or those of
// them that FAIRLEAD_TEST_MODES names (comma separated).
func Modes() []Mode {
	modes := []Mode{
		{"tcx", "tc", "tcx"},
		{"clsact", "tc", "clsact"},
		{"xdp-native", "xdp-native", "auto"},
		{"xdp-generic", "xdp-generic", "auto"},
	}
	if only := os.Getenv("FAIRLEAD_TEST_MODES"); only != "" {
		names := strings.Split(only, ",")
		modes = slices.DeleteFunc(modes, func(m Mode) bool { return !slices.Contains(names, m.Name) })
	}
	return modes
}

// needs skips the test on a kernel that is too old for the mode.
func (m Mode) needs(t testing.TB) {
	t.Helper()
	if m.TC == "tcx" {
		feature.Needs(t, feature.TCX)
	}
}

// Each runs f once for every mode, each in a lab of its own.
func Each(t *testing.T, f func(t *testing.T, l *Lab)) {
	t.Helper()
	for _, m := range Modes() {
		t.Run(m.Name, func(t *testing.T) {
			m.needs(t)
			f(t, New(t, m))
		})
	}
}

// Some is Each for the named modes only: where the way of attaching makes no
// difference to what is proved. A kernel without tcx has clsact in its place.
func Some(t *testing.T, names []string, f func(t *testing.T, l *Lab)) {
	t.Helper()
	for _, m := range served(t, names) {
		t.Run(m.Name, func(t *testing.T) { f(t, New(t, m)) })
	}
}

// Any is a mode that this kernel serves, for what is the same in all of them.
func Any(t testing.TB) Mode {
	t.Helper()
	modes := Modes()
	if m := modes[0]; m.TC != "tcx" || len(modes) == 1 || feature.Has(t, feature.TCX) {
		m.needs(t)
		return m
	}
	return modes[1]
}

// served are the named modes, with clsact for tcx where there is none.
func served(t testing.TB, names []string) []Mode {
	t.Helper()
	if slices.Contains(names, "tcx") && !feature.Has(t, feature.TCX) {
		names = append(slices.Clone(names), "clsact")
		names = slices.DeleteFunc(names, func(n string) bool { return n == "tcx" })
	}
	modes := slices.DeleteFunc(Modes(), func(m Mode) bool { return !slices.Contains(names, m.Name) })
	if only := os.Getenv("FAIRLEAD_TEST_MODES"); len(modes) == 0 && !strings.Contains(only, Nftables.Name) {
		t.Skipf("no mode of this test is among FAIRLEAD_TEST_MODES=%s", only)
	}
	return modes
}

// Lab is one network.
type Lab struct {
	Mode     Mode
	Client   *Netns
	Node     *Netns
	Replicas [3]*Replica

	base int // of the names
}

// Replica is one machine that can answer.
type Replica struct {
	Name  string // "replica-1"
	NS    *Netns
	Addr4 netip.Addr
	Addr6 netip.Addr
}

// Addr is the replica's address in a family.
func (r *Replica) Addr(f Family) netip.Addr {
	if f == V6 {
		return r.Addr6
	}
	return r.Addr4
}

// Family is an IP version.
type Family int

// The families.
const (
	V4 Family = 4
	V6 Family = 6
)

// Families are both, for loops.
var Families = []Family{V4, V6}

// String is "v4" or "v6".
func (f Family) String() string { return fmt.Sprintf("v%d", int(f)) }

// The addresses of the lab that are not replicas'.
var (
	Client4 = netip.MustParseAddr("198.51.100.2")
	Client6 = netip.MustParseAddr("fd00:c::2")
	Node4   = netip.MustParseAddr("198.51.100.1")
	Node6   = netip.MustParseAddr("fd00:c::1")
)

// ClientAddr is the client's address in a family.
func ClientAddr(f Family) netip.Addr {
	if f == V6 {
		return Client6
	}
	return Client4
}

// NodeAddr is the node's public address in a family.
func NodeAddr(f Family) netip.Addr {
	if f == V6 {
		return Node6
	}
	return Node4
}

// New makes a network; it is gone when the test ends. The node forwards no
// packets by itself: what arrives has been carried by fairlead.
func New(t testing.TB, m Mode) *Lab {
	t.Helper()
	l := &Lab{Mode: m, base: serial()}
	l.Node = newNetns(t, l.name("node"))
	l.Client = newNetns(t, l.name("client"))
	l.Node.Veth(t, "up0", l.Client, "eth0")
	l.Node.ip(t, "addr add 198.51.100.1/24 dev up0", "addr add fd00:c::1/64 dev up0 nodad")
	l.Client.ip(t, "addr add 198.51.100.2/24 dev eth0", "addr add fd00:c::2/64 dev eth0 nodad",
		"route add 198.18.0.0/16 via 198.51.100.1", "route add fd00:198:18::/112 via fd00:c::1")
	for i := range l.Replicas {
		l.Replicas[i] = l.replica(t, i+1)
	}
	if m.XDP() {
		// XDP sees what the wire would carry: whole checksums, frames of one
		// MTU. And a veth takes frames from XDP only where its peer polls, which
		// GRO makes it do.
		l.Client.Run(t, "ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off")
	}
	if m.Attach == "xdp-native" {
		// veth_xdp_flush wakes the receiver of XDP_TX frames only where that
		// has an XDP program itself: GRO is not enough.
		l.Client.passXDP(t, "eth0")
	}
	t.Cleanup(func() { l.checkChecksums(t) })
	return l
}

func (l *Lab) name(role string) string { return fmt.Sprintf("%s-%d-%s", Prefix(), l.base, role) }

func (l *Lab) replica(t testing.TB, k int) *Replica {
	r := &Replica{
		Name:  fmt.Sprintf("replica-%d", k),
		NS:    newNetns(t, l.name(fmt.Sprintf("r%d", k))),
		Addr4: netip.AddrFrom4([4]byte{10, 1, byte(k), 2}),
		Addr6: netip.MustParseAddr(fmt.Sprintf("fd00:1:%d::2", k)),
	}
	l.wire(t, r, k)
	return r
}

// Rewire takes the replica's interface away and makes a new one in its place.
func (l *Lab) Rewire(t testing.TB, r *Replica) {
	t.Helper()
	k := slices.Index(l.Replicas[:], r) + 1
	l.Node.ip(t, fmt.Sprintf("link del rep%d", k))
	l.wire(t, r, k)
}

func (l *Lab) wire(t testing.TB, r *Replica, k int) {
	t.Helper()
	dev := fmt.Sprintf("rep%d", k)
	l.Node.Veth(t, dev, r.NS, "eth0")
	l.Node.ip(t, fmt.Sprintf("addr add 10.1.%d.1/24 dev %s", k, dev), fmt.Sprintf("addr add fd00:1:%d::1/64 dev %s nodad", k, dev))
	r.NS.ip(t, fmt.Sprintf("addr add %s/24 dev eth0", r.Addr4), fmt.Sprintf("addr add %s/64 dev eth0 nodad", r.Addr6),
		fmt.Sprintf("route add default via 10.1.%d.1", k), fmt.Sprintf("route add default via fd00:1:%d::1", k))
	if l.Mode.XDP() {
		r.NS.Run(t, "ethtool", "-K", "eth0", "gro", "on")
	}
}

// Forwarding switches the node's own forwarding of packets.
func (l *Lab) Forwarding(t testing.TB, on bool) {
	t.Helper()
	v := "0"
	if on {
		v = "1"
	}
	l.Node.Sysctl(t, "net/ipv4/ip_forward", v)
	l.Node.Sysctl(t, "net/ipv6/conf/all/forwarding", v)
}
