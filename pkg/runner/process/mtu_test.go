// SPDX-License-Identifier: Apache-2.0

package process

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// What a replica sends must fit the way to its clients: its MTU is the uplink's.
func TestReplicaHasTheUplinksMTU(t *testing.T) {
	up := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "mtuup0", MTU: 1400}, PeerName: "mtuup1"}
	if err := netlink.LinkAdd(up); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(up); err != nil {
			t.Error(err)
		}
	})
	if err := netlink.LinkSetUp(up); err != nil {
		t.Fatal(err)
	}
	_, everywhere, _ := net.ParseCIDR("0.0.0.0/0")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: up.Index, Dst: everywhere, Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
	b := start(t, testConfig(t.TempDir()))
	b.apply(echoSpec(8090, ":8090"))
	b.one("ready replica", isReady)
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "fl-") {
			seen++
			if l.Attrs().MTU != 1400 {
				t.Errorf("%s has an MTU of %d, the uplink 1400", l.Attrs().Name, l.Attrs().MTU)
			}
		}
	}
	if seen == 0 {
		t.Error("no link of a replica is there")
	}
}
