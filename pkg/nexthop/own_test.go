// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// The tests of this package run in a network namespace of their own.
func TestOwnMakesAddressesLocal(t *testing.T) {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("bring lo up: %v: %s", err, out)
	}
	l, err := OpenLinks()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	v4, other, v6 := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2"), netip.MustParseAddr("fd00:198:18::1")
	own := func(want []netip.Addr, addrs ...netip.Addr) {
		t.Helper()
		if removed, err := l.Own(ForNames, addrs); err != nil || !slices.Equal(removed, want) {
			t.Fatalf("own %v: took away %v, %v; want %v", addrs, removed, err, want)
		}
	}
	reached := func(a netip.Addr) bool {
		t.Helper()
		c, err := net.DialTimeout("udp", netip.AddrPortFrom(a, 9).String(), time.Second)
		if err != nil {
			return false // no route: the namespace has none
		}
		_ = c.Close()
		return true
	}
	defer func() { _, _ = l.Own(ForNames, nil) }()
	if reached(v4) || reached(v6) {
		t.Fatal("the addresses are local before")
	}
	own(nil, v4, v6)
	own(nil, v4, v6) // twice does nothing
	if !reached(v4) || !reached(v6) {
		t.Error("the addresses are not local")
	}
	if local, err := l.Local(); err != nil || local[v4] != "" {
		t.Errorf("%s is on interface %q, %v; want none", v4, local[v4], err)
	}
	// One that the host has anyway stays when it is given up.
	if out, err := exec.Command("ip", "addr", "add", other.String()+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() { _ = exec.Command("ip", "addr", "del", other.String()+"/32", "dev", "lo").Run() }()
	own([]netip.Addr{v4}, other, v6)
	own([]netip.Addr{v6})
	if reached(v4) || reached(v6) || !reached(other) {
		t.Error("after giving up: want the host's own address only")
	}
}
