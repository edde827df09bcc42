// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/nexthop/nstest"
	"github.com/fairlead-lb/fairlead/test/feature"
)

func TestMain(m *testing.M) {
	nstest.Main(func() { goleak.VerifyTestMain(m) })
}

func open(t *testing.T) *Table {
	t.Helper()
	table, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return table
}

// run starts a table's Run and counts the changes of hops it tells.
func run(t *testing.T, table *Table) *atomic.Int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var changes atomic.Int64
	done := make(chan error)
	go func() {
		done <- table.Run(ctx, func(c Change) {
			if c.Hops {
				changes.Add(1)
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &changes
}

func a(s string) netip.Addr { return netip.MustParseAddr(s) }

func mac(l netlink.Link) (m [6]byte) {
	copy(m[:], l.Attrs().HardwareAddr)
	return m
}

func route(t *testing.T, verb func(*netlink.Route) error, dst string, r netlink.Route) {
	t.Helper()
	_, n, err := net.ParseCIDR(dst)
	if err != nil {
		t.Fatal(err)
	}
	r.Dst = n
	if err := verb(&r); err != nil {
		t.Fatalf("route %s: %v", dst, err)
	}
}

func TestNeighbourLearnt(t *testing.T) {
	for _, tc := range []struct{ name, here, there, addr string }{
		{"ipv4", "10.1.0.1/24", "10.1.0.2/24", "10.1.0.2"},
		{"ipv6", "fd00:1::1/64", "fd00:1::2/64", "fd00:1::2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ns := nstest.New(t)
			near := ns.Veth(t, "veth0", []string{tc.here}, "eth0", []string{tc.there})
			far, err := ns.LinkByName("eth0")
			if err != nil {
				t.Fatal(err)
			}
			table := open(t)
			changes := run(t, table)
			table.Track([]netip.Addr{a(tc.addr)})
			nstest.Until(t, "the neighbour is known", func() bool { return table.Lookup(a(tc.addr)).Resolved() })
			want := Hop{
				Addr: a(tc.addr), IfIndex: uint32(near.Attrs().Index), IfName: "veth0",
				MAC: mac(far), SrcMAC: mac(near), Peer: true, XDPXmit: table.Lookup(a(tc.addr)).XDPXmit,
			}
			if got := table.Lookup(a(tc.addr)); got != want {
				t.Errorf("Lookup = %+v, want %+v", got, want)
			}
			nstest.Until(t, "changed was called", func() bool { return changes.Load() > 0 })
		})
	}
}

// The kernel, not a host program, decides about the MAC: a replica that comes
// back with another one is followed.
func TestNeighbourChanges(t *testing.T) {
	ns := nstest.New(t)
	near := ns.Veth(t, "veth0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	table := open(t)
	run(t, table)
	table.Track([]netip.Addr{a("10.1.0.2")})
	nstest.Until(t, "the neighbour is known", func() bool { return table.Lookup(a("10.1.0.2")).Resolved() })
	other := net.HardwareAddr{2, 1, 2, 3, 4, 5}
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: near.Attrs().Index, Family: netlink.FAMILY_V4, IP: net.IPv4(10, 1, 0, 2),
		HardwareAddr: other, State: netlink.NUD_PERMANENT,
	})
	if err != nil {
		t.Fatal(err)
	}
	nstest.Until(t, "the new MAC is seen", func() bool { return table.Lookup(a("10.1.0.2")).MAC == [6]byte(other) })
	// Asking again must not end the entry's permanence.
	table.refresh(func(Hop) bool { return true }, true)
	n, err := table.links.neighbour(neighKey{uint32(near.Attrs().Index), a("10.1.0.2")})
	if err != nil || n.state&unix.NUD_PERMANENT == 0 {
		t.Errorf("neighbour = %+v, %v; want it permanent", n, err)
	}
}

func TestRouteChange(t *testing.T) {
	left, right := nstest.New(t), nstest.New(t)
	l := left.Veth(t, "left0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	r := right.Veth(t, "right0", []string{"10.2.0.1/24"}, "eth0", []string{"10.2.0.2/24"})
	table := open(t)
	changes := run(t, table)
	addr := a("192.168.7.7")
	table.Track([]netip.Addr{addr})
	if got := table.Lookup(addr); got.IfIndex != 0 || !strings.Contains(got.Err, "no route to 192.168.7.7") {
		t.Fatalf("without a route: %+v", got)
	}
	route(t, netlink.RouteAdd, "192.168.0.0/16", netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IPv4(10, 1, 0, 2)})
	nstest.Until(t, "the left gateway is known", func() bool {
		h := table.Lookup(addr)
		return h.IfName == "left0" && h.Gateway == a("10.1.0.2") && h.Resolved() && h.Err == ""
	})
	before := changes.Load()
	route(t, netlink.RouteReplace, "192.168.0.0/16", netlink.Route{LinkIndex: r.Attrs().Index, Gw: net.IPv4(10, 2, 0, 2)})
	nstest.Until(t, "the right gateway is known", func() bool {
		h := table.Lookup(addr)
		return h.IfName == "right0" && h.Gateway == a("10.2.0.2") && h.Resolved()
	})
	nstest.Until(t, "changed was called", func() bool { return changes.Load() > before })
	route(t, netlink.RouteDel, "192.168.0.0/16", netlink.Route{})
	nstest.Until(t, "the route is gone", func() bool { return table.Lookup(addr).IfIndex == 0 })
}

// What is no matter of a tracked address is no change.
func TestNoChangeNoCall(t *testing.T) {
	ns := nstest.New(t)
	near := ns.Veth(t, "veth0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	table := open(t)
	table.Track([]netip.Addr{a("10.1.0.2")})
	nstest.Until(t, "the neighbour is known", func() bool {
		table.refresh(func(Hop) bool { return true }, false)
		return table.Lookup(a("10.1.0.2")).Resolved()
	})
	changes := run(t, table)
	route(t, netlink.RouteAdd, "172.30.0.0/16", netlink.Route{LinkIndex: near.Attrs().Index, Gw: net.IPv4(10, 1, 0, 2)})
	marker := a("172.31.0.9") // resolved after the event above, by the same table
	table.Track([]netip.Addr{a("10.1.0.2"), marker})
	route(t, netlink.RouteAdd, "172.31.0.0/16", netlink.Route{LinkIndex: near.Attrs().Index, Gw: net.IPv4(10, 1, 0, 2)})
	nstest.Until(t, "the marker's route is seen", func() bool { return table.Lookup(marker).IfIndex != 0 })
	nstest.Until(t, "changed was called", func() bool { return changes.Load() > 0 })
	if n := changes.Load(); n != 1 {
		t.Errorf("changed was called %d times, want once, for the marker", n)
	}
}

func TestECMP(t *testing.T) {
	left, right := nstest.New(t), nstest.New(t)
	l := left.Veth(t, "left0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	r := right.Veth(t, "right0", []string{"10.2.0.1/24"}, "eth0", []string{"10.2.0.2/24"})
	route(t, netlink.RouteAdd, "192.168.0.0/16", netlink.Route{MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: l.Attrs().Index, Gw: net.IPv4(10, 1, 0, 2)},
		{LinkIndex: r.Attrs().Index, Gw: net.IPv4(10, 2, 0, 2)},
	}})
	table := open(t)
	ways := map[string]int{}
	for i := range 64 {
		addr := netip.AddrFrom4([4]byte{192, 168, byte(i), 1})
		h := table.Lookup(addr)
		if again := table.Lookup(addr); again.IfName != h.IfName || again.Gateway != h.Gateway {
			t.Errorf("%s: picked %s, then %s", addr, h.IfName, again.IfName)
		}
		ways[h.IfName]++
	}
	if ways["left0"] == 0 || ways["right0"] == 0 {
		t.Errorf("64 destinations went %v, want both ways", ways)
	}
	table.Track([]netip.Addr{a("192.168.1.1")})
	run(t, table)
	if err := netlink.LinkSetDown(l); err != nil {
		t.Fatal(err)
	}
	nstest.Until(t, "the way that is left is taken", func() bool { return table.Lookup(a("192.168.1.1")).IfName == "right0" })
}

func TestNoNextHop(t *testing.T) {
	ns := nstest.New(t)
	ns.Veth(t, "veth0", []string{"10.1.0.1/24", "fd00:1::1/64"}, "eth0", nil)
	route(t, netlink.RouteAdd, "10.66.0.0/16", netlink.Route{Type: unix.RTN_UNREACHABLE})
	route(t, netlink.RouteAdd, "10.67.0.0/16", netlink.Route{Type: unix.RTN_BLACKHOLE})
	route(t, netlink.RouteAdd, "10.68.0.0/16", netlink.Route{Type: unix.RTN_PROHIBIT})
	t.Cleanup(func() {
		for _, dst := range []string{"10.66.0.0/16", "10.67.0.0/16", "10.68.0.0/16"} {
			route(t, netlink.RouteDel, dst, netlink.Route{})
		}
	})
	table := open(t)
	for addr, words := range map[string]string{
		"203.0.113.9": "no route matches",
		"fd99::1":     "no route matches",
		"10.66.0.1":   "a route says unreachable",
		"10.67.0.1":   "blackhole",
		"10.68.0.1":   "prohibits",
		"10.1.0.255":  "a broadcast address",
	} {
		h := table.Lookup(a(addr))
		if h.IfIndex != 0 || !strings.Contains(h.Err, words) || !strings.Contains(h.Err, addr) {
			t.Errorf("%s: %+v, want an error with %q", addr, h, words)
		}
	}
	for _, addr := range []string{"10.1.0.1", "fd00:1::1", "127.0.0.1", "::1"} {
		// The kernel makes the local route of an IPv6 address a little later.
		nstest.Until(t, addr+" is local", func() bool {
			h := table.Lookup(a(addr))
			return h.Local && h.Err == "" && h.IfIndex != 0
		})
	}
	if h := table.Lookup(a("::ffff:10.1.0.1")); !h.Local || h.Addr != a("10.1.0.1") {
		t.Errorf("mapped address: %+v", h)
	}
}

func TestPolicyRouting(t *testing.T) {
	ns := nstest.New(t)
	near := ns.Veth(t, "veth0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	table := open(t)
	run(t, table)
	addr := a("172.20.0.1")
	table.Track([]netip.Addr{addr})
	route(t, netlink.RouteAdd, "172.20.0.0/16", netlink.Route{LinkIndex: near.Attrs().Index, Gw: net.IPv4(10, 1, 0, 2), Table: 77})
	rule := netlink.NewRule()
	rule.Table, rule.Dst, rule.Family = 77, &net.IPNet{IP: net.IPv4(172, 20, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}, netlink.FAMILY_V4
	if err := netlink.RuleAdd(rule); err != nil {
		t.Fatal(err)
	}
	nstest.Until(t, "the rule is followed", func() bool { return table.Lookup(addr).IfName == "veth0" })
	if err := netlink.RuleDel(rule); err != nil {
		t.Fatal(err)
	}
	nstest.Until(t, "the rule is gone", func() bool { return table.Lookup(addr).IfIndex == 0 })
}

func TestInterfaceComesAndGoes(t *testing.T) {
	table := open(t)
	run(t, table)
	addr := a("10.1.0.2")
	table.Track([]netip.Addr{addr, addr})
	var last uint32
	for range 3 {
		ns := nstest.New(t)
		near := ns.Veth(t, "veth0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
		nstest.Until(t, "the interface is used", func() bool {
			h := table.Lookup(addr)
			return h.IfIndex == uint32(near.Attrs().Index) && h.IfIndex != last && h.Resolved()
		})
		last = table.Lookup(addr).IfIndex
		if err := netlink.LinkDel(near); err != nil {
			t.Fatal(err)
		}
		nstest.Until(t, "the interface is gone", func() bool { return table.Lookup(addr).IfIndex == 0 })
	}
}

func TestTrackForgets(t *testing.T) {
	table := open(t)
	table.Track([]netip.Addr{a("127.0.0.1"), a("127.0.0.2")})
	table.Track([]netip.Addr{a("127.0.0.2")})
	table.mu.Lock()
	defer table.mu.Unlock()
	if len(table.hops) != 1 {
		t.Errorf("tracked: %v", table.hops)
	}
}

func TestLinks(t *testing.T) {
	ns := nstest.New(t)
	near := ns.Veth(t, "veth0", []string{"10.1.0.1/24", "fd00:1::1/64", "169.254.9.9/16"}, "eth0", []string{"10.1.0.2/24"})
	index := uint32(near.Attrs().Index)
	both := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "both0"}, PeerName: "both1"}
	if err := netlink.LinkAdd(both); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(both) })
	l := open(t).Links()
	list, err := l.List()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]Link{}
	for _, link := range list {
		byName[link.Name] = link
	}
	if got := byName["veth0"]; got.Kind != "veth" || !got.Peer || got.Index != index || got.MAC != mac(near) || !got.Up {
		t.Errorf("veth0 = %+v", got)
	}
	if got := byName["both0"]; got.Kind != "veth" || got.Peer {
		t.Errorf("both0 = %+v, want a veth whose peer is here", got)
	}
	if got := byName["lo"]; !got.Loopback || got.Kind != "" {
		t.Errorf("lo = %+v", got)
	}
	addrs, err := l.Addrs(index)
	if err != nil || len(addrs) != 3 || addrs[0] != a("10.1.0.1") || addrs[2] != a("fd00:1::1") {
		t.Errorf("Addrs = %v, %v", addrs, err)
	}
	if got, err := l.Default(); err != nil || len(got) != 0 {
		t.Errorf("Default = %v, %v; want none", got, err)
	}
	route(t, netlink.RouteAdd, "::/0", netlink.Route{LinkIndex: near.Attrs().Index, Gw: net.ParseIP("fd00:1::2")})
	if got, err := l.Default(); err != nil || len(got) != 1 || got[0] != index {
		t.Errorf("Default = %v, %v; want %d by its IPv6 route", got, err, index)
	}
	route(t, netlink.RouteAdd, "0.0.0.0/0", netlink.Route{LinkIndex: near.Attrs().Index, Gw: net.IPv4(10, 1, 0, 2)})
	if got, err := l.Default(); err != nil || len(got) != 1 || got[0] != index {
		t.Errorf("Default = %v, %v; want %d once", got, err, index)
	}
}

// A veth takes redirected frames only if its peer polls, which it does with
// GRO on or with an XDP program.
func TestXDPXmitFollowsPeer(t *testing.T) {
	ns := nstest.New(t)
	near := ns.Veth(t, "veth0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	table := open(t)
	run(t, table)
	f, err := table.Links().XDPFeatures(uint32(near.Attrs().Index))
	if err != nil {
		t.Fatal(err)
	}
	table.Track([]netip.Addr{a("10.1.0.2")})
	if !f.Known {
		feature.Lacks(t, "what drivers can do with XDP, by netlink", 6, 3)
	}
	if !f.Basic || !f.Redirect || f.Xmit || table.Lookup(a("10.1.0.2")).XDPXmit {
		t.Errorf("veth without GRO: %+v", f)
	}
	if _, err := table.Links().XDPFeatures(999999); !errors.Is(err, ErrNoLink) {
		t.Errorf("an interface that is not there: %v", err)
	}
	ns.Do(t, func() error { return setGRO("eth0") })
	nstest.Until(t, "the driver's change is seen", func() bool { return table.Lookup(a("10.1.0.2")).XDPXmit })
}

// Messages the kernel had no room for are announced by nil: look at everything.
func TestWatchOverflow(t *testing.T) {
	ns := nstest.New(t)
	near := ns.Veth(t, "veth0", []string{"10.1.0.1/24"}, "eth0", nil)
	ctx, cancel := context.WithCancel(t.Context())
	started, burst := make(chan struct{}), make(chan struct{})
	var missed atomic.Int64
	done := make(chan error)
	go func() {
		sub := subscription{family: unix.NETLINK_ROUTE, groups: RouteEvents, buffer: 4096}
		done <- watch(ctx, slog.New(slog.DiscardHandler), sub, func(m *mdnetlink.Message) {
			if m == nil && missed.Add(1) == 1 {
				close(started)
				<-burst
			}
		})
	}()
	<-started
	for i := range 200 {
		route(t, netlink.RouteAdd, netip.AddrFrom4([4]byte{172, 29, byte(i), 0}).String()+"/24", netlink.Route{LinkIndex: near.Attrs().Index})
	}
	close(burst)
	nstest.Until(t, "the overflow is noticed", func() bool { return missed.Load() == 2 })
	route(t, netlink.RouteDel, "172.29.0.0/24", netlink.Route{})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch = %v", err)
	}
}
