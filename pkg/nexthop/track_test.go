// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/pkg/nexthop/nstest"
)

// told counts the changes of one kind that a table's Run tells.
func told(t *testing.T, table *Table, kind func(Change) bool) *atomic.Int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	started, done := make(chan struct{}, 1), make(chan error)
	go func() {
		done <- table.Run(ctx, func(c Change) {
			if kind(c) {
				n.Add(1)
			}
			select {
			case started <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	<-started
	return &n
}

// Whoever attaches to the tracked interfaces is told when they change, and not
// when only the addresses behind them do.
func TestTracked(t *testing.T) {
	left, right := nstest.New(t), nstest.New(t)
	l := left.Veth(t, "left0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	r := right.Veth(t, "right0", []string{"10.2.0.1/24"}, "eth0", []string{"10.2.0.2/24"})
	table := open(t)
	if got, known := table.Tracked(); known || len(got) > 0 {
		t.Errorf("before the first Track: %v, %v", got, known)
	}
	if _, known := table.Known(a("10.1.0.2")); known {
		t.Error("an address is known that nobody tracks")
	}
	n := told(t, table, func(c Change) bool { return c.Tracked })
	want := int64(0)
	for _, step := range []struct {
		what  string
		addrs []string
		links []netlink.Link
		tells bool
	}{
		{"the first, even of none", nil, nil, true},
		{"one behind each", []string{"10.1.0.2", "10.2.0.2"}, []netlink.Link{l, r}, true},
		{"another behind one", []string{"10.1.0.2", "10.1.0.3", "10.2.0.2", "127.0.0.1"}, []netlink.Link{l, r}, false},
		{"the last behind one leaves", []string{"10.1.0.2"}, []netlink.Link{l}, true},
	} {
		var addrs []netip.Addr
		for _, s := range step.addrs {
			addrs = append(addrs, a(s))
		}
		table.Track(addrs)
		if step.tells {
			want++
		}
		nstest.Until(t, step.what, func() bool { return n.Load() == want })
		got, known := table.Tracked()
		var indexes []uint32
		for _, link := range step.links {
			indexes = append(indexes, uint32(link.Attrs().Index))
		}
		if !known || !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(slices.Values(indexes))) {
			t.Errorf("%s: %v, %v; want %v", step.what, got, known, indexes)
		}
	}
	if h, known := table.Known(a("10.1.0.2")); !known || h.IfName != "left0" {
		t.Errorf("Known = %+v, %v", h, known)
	}
}

// What is followed again is looked up again: nobody reads the kernel's messages
// here, as in the moment before they are read.
func TestFollowedAgain(t *testing.T) {
	left, right := nstest.New(t), nstest.New(t)
	l := left.Veth(t, "left0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	r := right.Veth(t, "right0", []string{"10.2.0.1/24"}, "eth0", []string{"10.2.0.2/24"})
	table := open(t)
	replica := []netip.Addr{a("10.77.0.9")}
	for _, link := range []netlink.Link{nil, l, r} {
		if link != nil {
			route(t, netlink.RouteReplace, "10.77.0.9/32", netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK})
		}
		table.Follow(replica, nil)
		h, known := table.Known(replica[0])
		if want := link; !known || want == nil && h.IfIndex != 0 || want != nil && h.IfIndex != uint32(want.Attrs().Index) {
			t.Errorf("Known = %+v, %v; want %v", h, known, link)
		}
	}
	if got, _ := table.Tracked(); len(got) != 1 || !got[uint32(r.Attrs().Index)] {
		t.Errorf("Tracked = %v", got)
	}
}

func TestAddressesAreTold(t *testing.T) {
	ns := nstest.New(t)
	near := ns.Veth(t, "veth0", []string{"10.1.0.1/24"}, "eth0", []string{"10.1.0.2/24"})
	table := open(t)
	n := told(t, table, func(c Change) bool { return c.Addrs })
	nstest.Until(t, "the start counts as a change", func() bool { return n.Load() > 0 })
	for _, verb := range []func(netlink.Link, *netlink.Addr) error{netlink.AddrAdd, netlink.AddrDel} {
		before := n.Load()
		addr, err := netlink.ParseAddr("198.18.0.10/32")
		if err != nil {
			t.Fatal(err)
		}
		if err := verb(near, addr); err != nil {
			t.Fatal(err)
		}
		nstest.Until(t, "the change is told", func() bool { return n.Load() > before })
		local, err := table.Links().Local()
		if err != nil {
			t.Fatal(err)
		}
		if name, is := local[a("198.18.0.10")]; is != (name == "veth0") || local[a("127.0.0.1")] != "lo" || local[a("10.1.0.1")] != "veth0" {
			t.Errorf("Local = %v", local)
		}
	}
}

// A tun device carries IP packets without a header before them.
func TestRawLink(t *testing.T) {
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI}
	if err := netlink.LinkAdd(tun); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(tun) })
	if err := netlink.LinkSetUp(tun); err != nil {
		t.Fatal(err)
	}
	table := open(t)
	list, err := table.Links().List()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if l.Raw != (l.Name == "tun0") {
			t.Errorf("%s: Raw is %v", l.Name, l.Raw)
		}
	}
	route(t, netlink.RouteAdd, "10.77.0.0/16", netlink.Route{LinkIndex: tun.Attrs().Index})
	if h := table.Lookup(a("10.77.0.1")); !h.Raw || h.IfName != "tun0" {
		t.Errorf("Lookup = %+v, want one behind tun0, which is raw", h)
	}
}
