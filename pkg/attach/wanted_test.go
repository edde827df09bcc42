// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/nexthop/nstest"
	"github.com/fairlead-lb/fairlead/test/feature"
)

// NICs are those of the default routes, workloads' interfaces those that lead
// to a backend; the loopback and local addresses are neither.
func TestWanted(t *testing.T) {
	up, near := nstest.New(t), nstest.New(t)
	nic := up.Veth(t, "nic0", []string{"10.9.0.1/24"}, "eth0", []string{"10.9.0.2/24"})
	near.Veth(t, "work0", []string{"10.1.0.1/24", "fd00:1::1/64"}, "eth0", []string{"10.1.0.2/24"})
	w := newWorld(t)
	target := w.start()
	n := node("auto", "auto")
	backends := []string{"10.1.0.2", "fd00:1::2", "10.9.0.77", "10.9.0.1", "127.0.0.1", "203.0.113.1"}

	apply(t, target, state(n, backends...)) // interfaces: []
	want := []Interface{{Name: "nic0", Role: "workload", TC: feature.BestTC(t)}, {Name: "work0", Role: "workload", TC: feature.BestTC(t)}}
	check := func(what string) {
		t.Helper()
		got := target.Interfaces()
		if len(got) != len(want) {
			t.Fatalf("%s: %+v, want %+v", what, got, want)
		}
		for i := range got {
			if g := shown(t, target, got[i].Name); g != want[i] {
				t.Errorf("%s: %+v, want %+v", what, g, want[i])
			}
		}
	}
	check("no interfaces asked for")

	n.Interfaces = nil
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	if err := netlink.RouteAdd(&netlink.Route{Dst: all, LinkIndex: nic.Attrs().Index, Gw: net.IPv4(10, 9, 0, 2)}); err != nil {
		t.Fatal(err)
	}
	apply(t, target, state(n, backends[:2]...))
	want[0].Role = "nic"
	check("those of the default routes")

	apply(t, target, state(n))
	want = want[:1]
	check("without backends")
}

func TestXDPModes(t *testing.T) {
	for _, tc := range []struct {
		attach string
		link   nexthop.Link
		want   string
	}{
		{"auto", nexthop.Link{}, "native generic"},
		{"", nexthop.Link{}, "native generic"},
		{"auto", nexthop.Link{Kind: "bond"}, "native generic"},
		{"auto", nexthop.Link{Kind: "veth"}, ""},
		{"auto", nexthop.Link{Kind: "bridge"}, ""},
		{"auto", nexthop.Link{Loopback: true}, ""},
		{"xdp-native", nexthop.Link{Kind: "veth"}, "native"},
		{"xdp-generic", nexthop.Link{}, "generic"},
		{"tc", nexthop.Link{}, ""},
	} {
		if got := strings.Join(xdpModes(tc.attach, tc.link), " "); got != tc.want {
			t.Errorf("xdpModes(%q, %+v) = %q, want %q", tc.attach, tc.link, got, tc.want)
		}
	}
}

// What cannot be told to the data plane is not attached, and is tried again.
func TestIfaceMapFails(t *testing.T) {
	ns, _ := veth(t)
	w := newWorld(t)
	target := w.start()
	w.ifaces.fail = errors.New("injected")
	s := state(node("tc", "auto", "veth0"))
	if err := target.Apply(t.Context(), s); err == nil || !strings.Contains(err.Error(), "veth0") {
		t.Errorf("Apply = %v, want an error that names veth0", err)
	}
	if got := grows(t, ns, w.tc, 5); got != 0 {
		t.Errorf("TC saw %d without a slot", got)
	}
	w.ifaces.fail = nil
	apply(t, target, s)
	if got := grows(t, ns, w.tc, 5); got != 5 {
		t.Errorf("TC saw %d of 5", got)
	}
	w.ifaces.fail = errors.New("injected")
	if err := target.Apply(t.Context(), state(node("tc", "auto"))); err == nil {
		t.Error("Apply = nil, want an error about the slot")
	}
	w.ifaces.fail = nil
	apply(t, target, state(node("tc", "auto")))
	if len(w.ifaces.entries) != 0 {
		t.Errorf("IfaceMap keeps %v", w.ifaces.entries)
	}
}

func TestWatch(t *testing.T) {
	w := newWorld(t)
	target := w.start()
	ctx, cancel := context.WithCancel(t.Context())
	var kicks atomic.Int64
	done := make(chan error)
	go func() { done <- target.Watch(ctx, func() { kicks.Add(1) }) }()
	nstest.Until(t, "it has started", func() bool { return kicks.Load() > 0 })
	before := kicks.Load()
	_, near := veth(t)
	nstest.Until(t, "a new interface is seen", func() bool { return kicks.Load() > before })
	before = kicks.Load()
	if err := netlink.LinkDel(near); err != nil {
		t.Fatal(err)
	}
	nstest.Until(t, "an interface that went is seen", func() bool { return kicks.Load() > before })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Watch = %v", err)
	}
}

func TestSlots(t *testing.T) {
	var s slots
	seen := map[uint8]bool{}
	for i := range uint8(254) {
		got := s.take(0)
		if got != i+1 || seen[got] {
			t.Fatalf("slot %d is %d", i, got)
		}
		seen[got] = true
	}
	if got := s.take(0); got != sharedSlot {
		t.Errorf("slot beyond the last = %d, want the shared one", got)
	}
	s.free(sharedSlot)
	s.free(0)
	s.free(7)
	s.free(9)
	if a, b := s.take(0), s.take(0); a != 7 || b != 9 {
		t.Errorf("freed slots: %d, %d", a, b)
	}
	s = slots{}
	first := s.take(0)
	s.free(first)
	if got := s.take(0); got == first {
		t.Errorf("slot %d is used again at once", got)
	}
	if got := s.take(40); got != 40 {
		t.Errorf("preferred slot = %d, want 40", got)
	}
	if got := s.take(40); got == 40 {
		t.Error("slot 40 was given out twice")
	}
}
