// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// embryos is the kernel's table of unfinished handshakes, and its clocks, at
// 250 jiffies a second.
type embryos struct {
	flows map[bpf.FlowKey]bpf.Flow
	mono  time.Duration
}

func (e *embryos) EachEmbryo(yield func(bpf.FlowKey, bpf.Flow) bool) error {
	for k, f := range e.flows {
		if !yield(k, f) {
			break
		}
	}
	return nil
}

func (e *embryos) Clock() (uint64, time.Duration, error) {
	return uint64(1<<32 + e.mono/(4*time.Millisecond)), e.mono, nil // soon after the time in flows began anew
}

// put makes the entry of a handshake whose last packet comes now.
func (e *embryos) put(port uint16, to string, proto, flags, state uint8) {
	j, _, _ := e.Clock()
	back, client := netip.MustParseAddrPort(to), netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port)
	e.flows[bpf.FlowKey{Src: back, Dst: client, Proto: proto}] = bpf.Flow{Flags: flags, State: state, Seen: uint32(j)}
}

func TestL04SignsOfFailure(t *testing.T) {
	e := &embryos{flows: map[bpf.FlowKey]bpf.Flow{}, mono: time.Hour}
	s := NewSigns(e)
	look := func() (out []string) {
		t.Helper()
		e.mono += time.Second
		err := s.EachFailure(func(to netip.AddrPort, how string, count int) {
			out = append(out, fmt.Sprintf("%s %s %d", to, how, count))
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := func(what string, got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	const reply, single = bpf.FlowReply, bpf.FlowReply | bpf.FlowSingle
	e.put(1, "10.1.0.2:80", 6, single, bpf.FlowRST) // before anybody looked
	want("the first look", look())
	want("the second", look())
	e.put(2, "10.1.0.2:80", 6, single, 0)
	e.put(3, "10.1.0.2:80", 6, reply, 0)
	e.put(4, "10.1.0.2:80", 6, 0, 0) // the client's direction
	e.put(5, "10.1.0.2:80", 6, single, bpf.FlowAnswered)
	e.put(6, "10.1.0.2:80", 6, single, bpf.FlowAnswered|bpf.FlowRST)
	e.put(7, "10.1.0.2:53", 17, reply, 0)
	e.put(8, "10.1.0.3:80", 6, single, bpf.FlowRST)
	e.put(9, "[fd00::2]:80", 6, reply, bpf.FlowUnreached)
	want("at once", look(), "10.1.0.3:80 refused 1", "[fd00::2]:80 unreachable 1")
	want("1 s later", look())
	want("2 s later", look())
	want("more than 3 s later", look(), "10.1.0.2:80 no answer 2")
	for range 10 {
		want("later", look())
	}
}

// RFC 5382 asks that an established connection may be idle for 2 h 4 min;
// Linux's own keep-alive comes after 2 h and 11 min more.
func TestEstablishedFlowsMayBeIdle(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	apply(t, target, stateOfOne(1, "10.1.0.2"))
	m.jiffies = 1e9
	idle := 2*time.Hour + 11*time.Minute
	k := bpf.FlowKey{Src: netip.MustParseAddrPort("10.1.0.2:8090"), Dst: netip.MustParseAddrPort("203.0.113.9:4000"), Proto: 6}
	m.flows[k] = bpf.Flow{
		Src: netip.MustParseAddrPort("198.18.0.10:90"), Dst: k.Dst, Flags: bpf.FlowReply | bpf.FlowSingle,
		Seen: uint32(m.jiffies) - uint32(idle.Milliseconds()),
	}
	if err := target.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.flows[k]; !ok {
		t.Errorf("a connection idle for %v is forgotten", idle)
	}
}
