// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Row A05: a removed replica's flows live for the drain time and are released
// then; flows of others stay.
func TestA05DrainEnds(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	apply(t, target, stateOfOne(1, "10.1.0.2", "10.1.0.3"))
	ids := map[string]uint32{}
	for i, b := range m.backends {
		ids[b.Addr.String()] = i
	}
	flowTo := func(addr string, port uint16) bpf.FlowKey {
		client := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port)
		vip, back := netip.MustParseAddrPort("198.18.0.10:90"), netip.MustParseAddrPort(addr+":8090")
		k := bpf.FlowKey{Src: client, Dst: vip, Proto: 6}
		m.flows[k] = bpf.Flow{Src: client, Dst: back, Backend: ids[addr], Seen: uint32(m.jiffies)}
		m.flows[bpf.FlowKey{Src: back, Dst: client, Proto: 6}] = bpf.Flow{Src: vip, Dst: client, Backend: ids[addr], Flags: bpf.FlowReply, Seen: uint32(m.jiffies)}
		return k
	}
	gone, kept := flowTo("10.1.0.2", 1), flowTo("10.1.0.3", 2)

	apply(t, target, stateOfOne(2, "10.1.0.3"))
	c.now = c.now.Add(29 * time.Second)
	if err := target.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.flows[gone]; !ok {
		t.Fatal("the flow was released before the drain time ended")
	}
	if m.backends[ids["10.1.0.2"]].Flags&bpf.BackendOpen != 0 {
		t.Error("the removed backend still takes new connections")
	}
	c.now = c.now.Add(2 * time.Second)
	if err := target.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.flows[gone]; ok {
		t.Error("the drain ended and the flow is still there")
	}
	if _, ok := m.backends[ids["10.1.0.2"]]; ok {
		t.Error("the drain ended and the backend's entry is still in use")
	}
	if _, ok := m.flows[kept]; !ok || len(m.flows) != 2 {
		t.Errorf("flows of the other backend: %v", m.flows)
	}
}

// agents is a sequence of agents with the same maps and clocks.
type agents struct {
	*fakeMaps
	t      *testing.T
	c      *clock
	target *Target
}

func newAgents(t *testing.T) *agents {
	a := &agents{fakeMaps: newFakeMaps(), t: t, c: &clock{time.Unix(1e9, 0)}}
	a.restart()
	return a
}

func (a *agents) restart() { a.target = newTarget(a.t, a.fakeMaps, a.c) }

func (a *agents) pass(d time.Duration) {
	a.c.now, a.jiffies = a.c.now.Add(d), a.jiffies+uint64(d.Milliseconds())
}

// apply applies a state whose services drain for five minutes, and sweeps; left
// is how many backends there are then.
func (a *agents) apply(s *model.State) (left int) {
	a.t.Helper()
	for _, svc := range s.Services {
		svc.Drain = 5 * time.Minute
	}
	apply(a.t, a.target, s)
	if err := a.target.Sweep(); err != nil {
		a.t.Fatal(err)
	}
	return len(a.backends)
}

// Row A05: a drain ends when it would have, whatever agents come and go meanwhile.
func TestA05DrainOutlivesTheAgent(t *testing.T) {
	for what, c := range map[string]struct {
		knew bool // the agent that sees the replica go knew its service
		gone bool // the service goes with it
		want time.Duration
	}{
		"replica":                  {true, false, 5 * time.Minute},
		"replica, after a restart": {false, false, 5 * time.Minute},
		"service":                  {true, true, 5 * time.Minute},
		"service, after a restart": {false, true, defaultDrain},
	} {
		t.Run(what, func(t *testing.T) {
			a := newAgents(t)
			a.apply(stateOfOne(1, "10.1.0.2", "10.1.0.3"))
			next, after := stateOfOne(2, "10.1.0.3"), 1
			if c.gone {
				next.Services, after = nil, 0
			}
			if !c.knew {
				a.restart()
			}
			a.apply(next)
			for range 4 {
				a.pass(c.want / 5)
				a.restart()
				if a.apply(next) == after {
					t.Fatal("the drain ended too early")
				}
			}
			a.pass(c.want/5 + time.Second)
			a.restart()
			if left := a.apply(next); left != after {
				t.Errorf("%d backends after the drain, wanted %d", left, after)
			}
		})
	}
}

// A removed service's own time counts also where its removal fails at first.
func TestA05DrainAfterAnError(t *testing.T) {
	a := newAgents(t)
	a.apply(stateOfOne(1, "10.1.0.2"))
	a.onLook = func(int) error { return errFault } // at the flows, which need entries
	gone := &model.State{Generation: 2}
	if err := a.target.Apply(t.Context(), gone); !errors.Is(err, errFault) {
		t.Fatalf("apply: %v, wanted the fault", err)
	}
	a.onLook = nil
	a.apply(gone)
	a.pass(4 * time.Minute)
	if left := a.apply(gone); left != 1 {
		t.Error("the drain ended too early")
	}
	a.pass(2 * time.Minute)
	if left := a.apply(gone); left != 0 {
		t.Errorf("%d backends after the drain", left)
	}
}

// A replica that came back, and goes again later, drains anew.
func TestA05DrainsAreNotMixedUp(t *testing.T) {
	a := newAgents(t)
	a.apply(stateOfOne(1, "10.1.0.2", "10.1.0.3"))
	a.apply(stateOfOne(2, "10.1.0.2"))
	a.pass(4 * time.Minute)
	a.apply(stateOfOne(3, "10.1.0.2", "10.1.0.3"))
	a.pass(time.Hour)
	last := stateOfOne(4, "10.1.0.2")
	a.apply(last)
	a.pass(4 * time.Minute)
	a.restart()
	if left := a.apply(last); left != 2 {
		t.Errorf("%d backends, wanted the one that drains too", left)
	}
}
