// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// From a table that is nearly full the kernel's LRU takes entries of idle
// connections: programs look for such, for as long as a connection may be idle.
func TestNearlyFullTableIsMended(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	m.sizes.Flows, m.jiffies = 16, 1e6
	target := newTarget(t, m, c)
	apply(t, target, stateOfOne(1, "10.1.0.2"))
	back := netip.MustParseAddrPort("10.1.0.2:8090")
	for port := range uint16(14) {
		if m.mendUntil != 0 {
			t.Fatalf("programs mend with %d of 16 entries", port)
		}
		client := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), 1024+port)
		m.flows[bpf.FlowKey{Src: back, Dst: client, Proto: 6}] = bpf.Flow{
			Src: netip.MustParseAddrPort("198.18.0.10:90"), Dst: client, Flags: bpf.FlowReply | bpf.FlowSingle, Seen: uint32(m.jiffies),
		}
		if err := target.Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	var o Timeouts
	o.defaults()
	if want := m.jiffies + uint64(o.TCP/time.Millisecond); m.mendUntil != want {
		t.Errorf("with 14 of 16 entries programs mend until %d, want %d", m.mendUntil, want)
	}
}
