// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/test/feature"
)

// The last replica behind an interface is removed from the state: its replies
// are translated as long as the data plane lets it drain.
func TestDrainingReplicaKeepsTC(t *testing.T) {
	for _, tc := range feature.WaysTC(t) {
		t.Run(tc, func(t *testing.T) {
			ns, _ := veth(t)
			w := newWorld(t)
			target := w.start()
			replica := []netip.Addr{netip.MustParseAddr("10.1.0.2")}
			n := node("tc", tc)

			apply(t, target, state(n, "10.1.0.2")) // attach hears of a state first
			w.hops.Track(replica)
			apply(t, target, state(n))
			if got := grows(t, ns, w.tc, 5); got != 5 {
				t.Errorf("while it drains TC saw %d of 5", got)
			}
			if got := shown(t, target, "veth0"); got.TC != tc || got.Role != roleWorkload {
				t.Errorf("while it drains: %+v", got)
			}
			w.hops.Track(nil)
			apply(t, target, state(n))
			if got := grows(t, ns, w.tc, 5); got != 0 {
				t.Errorf("after its drain TC saw %d", got)
			}
		})
	}
}

// A new agent that does not know yet what drains takes nothing off.
func TestNothingIsReleasedUnasked(t *testing.T) {
	ns, _ := veth(t)
	w := newWorld(t)
	first := w.start()
	apply(t, first, state(node("tc", "auto"), "10.1.0.2"))
	first.Close()

	fresh, err := nexthop.New(nexthop.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fresh.Close)
	w.hops = fresh
	w.load()
	second := w.start()
	apply(t, second, state(node("tc", "auto")))
	if got := grows(t, ns, w.tc, 5); got != 5 {
		t.Errorf("before the data plane spoke TC saw %d of 5", got)
	}
	fresh.Track(nil)
	apply(t, second, state(node("tc", "auto")))
	if got := grows(t, ns, w.tc, 5); got != 0 {
		t.Errorf("after it said that nothing drains TC saw %d", got)
	}
}

// Packets without an Ethernet header are foreign to the programs: nobody is
// told that they are served.
func TestRawInterface(t *testing.T) {
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI}
	if err := netlink.LinkAdd(tun); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(tun) })
	addr, err := netlink.ParseAddr("10.77.0.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(tun, addr); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(tun); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	target := w.start()
	for _, tc := range []struct {
		role, who  string
		interfaces []string
		backends   []string
	}{
		{roleNIC, "clients", []string{"tun0"}, nil},
		{roleWorkload, "replicas", nil, []string{"10.77.0.9"}},
	} {
		apply(t, target, state(node("auto", "auto", tc.interfaces...), tc.backends...))
		got := shown(t, target, "tun0")
		if got.Role != tc.role || got.TC+got.XDP != "" || !strings.Contains(got.Error, "no Ethernet header") || !strings.Contains(got.Error, tc.who) {
			t.Errorf("%s: %+v", tc.role, got)
		}
	}
	if links := linkIDs(t); len(links) > 0 {
		t.Errorf("attached all the same: %v", links)
	}
}
