// SPDX-License-Identifier: Apache-2.0

package process

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestLearnedDefaultRouteStays has a router advertise itself to the host, and
// checks that the default route learned from it outlives a replica's start.
func TestLearnedDefaultRouteStays(t *testing.T) {
	const uplink = "uplink0"
	router := filepath.Join(t.TempDir(), "router")
	p := paths{link: uplink, netns: router}
	if err := makeNetns(router); err != nil {
		t.Fatal(err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	t.Cleanup(func() {
		if _, err := teardown(p); err != nil {
			t.Error(err)
		}
	})
	link, err := makeVeth(h, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := apply(uplink, []setting{{"ipv6", "accept_dad", "0"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for !hasRouterDefault() {
		if time.Since(begin) > patience {
			t.Fatal("no default route was learned")
		}
		// Fails while the link is not up yet.
		if err := within(router, advertise); err != nil && time.Since(begin) > patience {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}

	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	b.apply(echoSpec(8090, ":8090"))
	rep := b.one("ready replica", isReady)
	fetch(t, rep.Addr6, 8090)
	if !hasRouterDefault() {
		t.Error("the host has lost its default route")
	}
	forwarding := filepath.Join("/proc/sys/net/ipv6/conf", pathsOf(cfg.RunDir, cfg.Cgroup, rep.ID).link, "forwarding")
	if b, err := os.ReadFile(forwarding); err != nil || strings.TrimSpace(string(b)) != "0" {
		t.Errorf("forwarding is %q, %v", b, err)
	}
}

// advertise sends one router advertisement (RFC 4861, 4.2) to all nodes.
func advertise() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	if err := apply(inside, []setting{{"ipv6", "accept_dad", "0"}}); err != nil {
		return err
	}
	link, err := h.LinkByName(inside)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
		return err
	}
	to := &unix.SockaddrInet6{ZoneId: uint32(link.Attrs().Index)}
	copy(to.Addr[:], net.ParseIP("ff02::1"))
	ra := []byte{134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0} // a router for 1 800 s
	return unix.Sendto(fd, ra, 0, to)
}
