// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Issue "L4 ahead of every anchor", 2: a new agent that is given the state the
// maps hold writes nothing, whatever the state and the ones before it.
func TestARestartWritesNothing(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
		target := newTarget(t, m, c)
		var last *model.State
		for g := range uint64(1 + r.IntN(4)) {
			last = randomState(r, g+1, last)
			apply(t, target, last)
		}
		settle(t, target, c, last)
		before := m.dump()
		m.writes = 0
		apply(t, newTarget(t, m, c), last)
		if diff := cmp.Diff(before, m.dump()); m.writes != 0 || diff != "" {
			t.Fatalf("seed %d: %d writes for a state that was there (-before +after)\n%s", seed, m.writes, diff)
		}
	}
}

func TestDriftIsMended(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	s := stateOfOne(1, "10.1.0.2", "10.1.0.3")
	apply(t, target, s)
	want := m.dump()
	clear(m.services)
	clear(m.backends)
	clear(m.slots)
	apply(t, target, s)
	if diff := cmp.Diff(want, m.dump()); diff != "" {
		t.Errorf("somebody emptied the maps and the next pass did not mend it\n%s", diff)
	}
}

// A table that somebody changed in the map is made good, by the agent that
// wrote it and by the next one.
func TestAChangedTableIsMended(t *testing.T) {
	key := bpf.ServiceKey{VIP: netip.MustParseAddr("198.18.0.10"), Port: 90, Proto: 6}
	for _, restart := range []bool{false, true} {
		m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
		target := newTarget(t, m, c)
		s := stateOfOne(1, "10.1.0.2", "10.1.0.3", "10.1.0.4")
		apply(t, target, s)
		was := m.services[key]
		m.slots[was.Base+7] = 400 // there is no such backend
		if restart {
			target = newTarget(t, m, c)
		}
		apply(t, target, s)
		is := m.services[key]
		for slot, id := range m.slots[is.Base : is.Base+is.Len] {
			if _, ok := m.backends[id]; !ok {
				t.Errorf("restart %t: slot %d leads to backend %d, which does not exist", restart, slot, id)
			}
		}
		if bad := m.uneven(s); bad != "" || len(m.broken) > 0 {
			t.Errorf("restart %t: %s%v", restart, bad, m.broken)
		}
	}
}

// An entry that somebody changed or emptied is written again, by the agent
// that wrote it, for replicas that are wanted and for those that drain.
func TestChangedBackendsAreMended(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	apply(t, target, stateOfOne(1, "10.1.0.2", "10.1.0.3", "10.1.0.4"))
	s := stateOfOne(2, "10.1.0.2", "10.1.0.3") // 10.1.0.4 drains
	apply(t, target, s)
	want := m.dump()
	for id, b := range m.backends {
		switch b.Addr.String() {
		case "10.1.0.2":
			b.IfIndex++
			m.backends[id] = b
		default:
			delete(m.backends, id)
		}
	}
	apply(t, target, s)
	if diff := cmp.Diff(want, m.dump()); diff != "" {
		t.Errorf("-before +mended\n%s", diff)
	}
	c.now = c.now.Add(time.Hour)
	if err := target.Sweep(); err != nil {
		t.Fatal(err)
	}
	if len(m.backends) != 2 {
		t.Errorf("the drain ended and the map holds %v", m.backends)
	}
}

// naive is what backends knows, without an index.
type naive map[uint32]struct {
	bpf.Backend
	claimed bool
}

// What entries are found by agrees with a walk over all of them, whatever came
// and went.
func TestBackendsAreFound(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	addr := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(12))}) }
	port := func() uint16 { return uint16(80 + r.IntN(2)) }
	x, all := newBackends(), naive{}
	for step := range 20_000 {
		id := uint32(r.IntN(60))
		e, there := all[id]
		switch r.IntN(5) {
		case 0:
			x.drop(id)
			delete(all, id)
		case 1:
			if there && e.claimed {
				x.disclaim(id)
				e.claimed = false
				all[id] = e
			}
		case 2:
			service, a, p := uint32(1+r.IntN(3)), addr(), port()
			g := x.group(service)
			_, had := g.place(a)
			if id, ok := x.claim(&g, a, p); ok {
				x.noteSockets([]uint32{id})
			}
			if id, ok := g.place(a); ok && !had {
				e := all[id]
				if e.Service != service || e.Addr != a || e.Port != p {
					t.Fatalf("step %d: service %d %s:%d claimed %+v", step, service, a, p, e)
				}
				e.claimed = true
				all[id] = e
			}
		default:
			e.Backend = bpf.Backend{Addr: addr(), Port: port(), Proto: 6, Flags: bpf.BackendUsed, Service: uint32(1 + r.IntN(3))}
			g := x.group(e.Service)
			_, taken := g.place(e.Addr)
			e.claimed = !taken && r.IntN(2) == 0
			x.put(id, e.Backend, e.claimed)
			all[id] = e
		}
		check(t, step, &x, all)
	}
}

func check(t *testing.T, step int, x *backends, all naive) {
	t.Helper()
	type place struct {
		service uint32
		addr    netip.Addr
	}
	places, before, unclaimed := map[place]uint32{}, map[socket]map[uint32]bool{}, 0
	for id, e := range all {
		if got := x.at(id); got == nil || got.Backend != e.Backend || got.claimed != e.claimed {
			t.Fatalf("step %d: entry %d is %+v, wanted %+v", step, id, got, e)
		}
		if !e.claimed {
			unclaimed++
			continue
		}
		places[place{e.Service, e.Addr}] = id
		s := socketOf(&e.Backend)
		if before[s] == nil {
			before[s] = map[uint32]bool{}
		}
		before[s][e.Service] = true
	}
	shared := map[tableID]int{}
	for _, services := range before {
		for id := range services {
			if len(services) > 1 {
				shared[tableID{id, false}]++
			}
		}
	}
	if x.unclaimed != unclaimed || !cmp.Equal(x.sockets.by, shared, cmp.AllowUnexported(tableID{})) {
		t.Fatalf("step %d: %d unclaimed, shared %v; wanted %d, %v", step, x.unclaimed, x.sockets.by, unclaimed, shared)
	}
	for service := uint32(1); service < 4; service++ {
		g := x.group(service)
		for a := range byte(12) {
			at := netip.AddrFrom4([4]byte{10, 0, 0, a})
			id, ok := g.place(at)
			want, is := places[place{service, at}]
			if ok != is || id != want {
				t.Fatalf("step %d: service %d at %s: entry %d, %t; wanted %d, %t", step, service, at, id, ok, want, is)
			}
		}
	}
}
