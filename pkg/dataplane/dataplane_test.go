// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newTarget(t *testing.T, m *fakeMaps, c *clock) *Target {
	t.Helper()
	target, err := New(Config{
		Maps: m, Hops: anyHop{}, Now: c.Now, Log: quiet(),
		NodeAddrs:  func([]string) ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil },
		LocalPorts: func() (uint16, uint16, error) { return 1100, 65500, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// randomState makes a valid state of up to six services over few addresses, so
// that sequences of states share, move and drop them. Some services stay what
// they were in the last state (nil: there is none).
func randomState(r *rand.Rand, generation uint64, last *model.State) *model.State {
	s := &model.State{Generation: generation}
	vips := map[netip.Addr]bool{}
	stay := r.IntN(4)
	for i := range 6 {
		if last != nil && r.IntN(4) < stay {
			if svc, ok := last.Service(model.ServiceName{Project: fmt.Sprintf("p%d", i), User: "user"}); ok && !vips[svc.VIP4] {
				s.Services = append(s.Services, svc)
				vips[svc.VIP4] = true
			}
			continue
		}
		if r.IntN(4) == 0 {
			continue
		}
		svc := &model.Service{
			Name:  model.ServiceName{Project: fmt.Sprintf("p%d", i), User: "user"},
			VIP4:  netip.AddrFrom4([4]byte{198, 18, 0, byte(10 + (i+r.IntN(2)*6)%12)}),
			Drain: time.Duration(r.IntN(30)) * time.Second,
			Ports: []model.Port{{Service: 90, Container: uint16(8000 + r.IntN(2)), Protocol: model.TCP}},
		}
		if r.IntN(2) == 0 {
			svc.VIP6 = netip.MustParseAddr(fmt.Sprintf("fd00:198:18::%d", 10+i))
		}
		if r.IntN(2) == 0 {
			svc.Ports = append(svc.Ports, model.Port{Service: 53, Container: 5353, Protocol: model.UDP})
		}
		for n := range r.IntN(6) {
			b := model.Backend{
				Addr4: netip.AddrFrom4([4]byte{10, 1, byte(r.IntN(2)), byte(2 + n)}), Weight: uint16(1 + r.IntN(3)),
				Backup: r.IntN(5) == 0, Condition: model.Condition(max(0, r.IntN(6)-3)),
			}
			if r.IntN(2) == 0 {
				b.Addr6 = netip.MustParseAddr(fmt.Sprintf("fd00:1::%d", 2+n))
			}
			svc.Backends = append(svc.Backends, b)
		}
		if r.IntN(3) == 0 {
			svc.Allow = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", r.IntN(2)))}
		}
		if r.IntN(3) == 0 {
			svc.Balance.Affinity, svc.RateLimit = "client-ip", model.RateLimit{PerSecond: uint32(r.IntN(3)), Burst: 5}
		}
		if r.IntN(5) == 0 {
			svc.Mode = model.ModeFullNAT
		}
		if r.IntN(5) == 0 {
			svc.Balance.Policy = "least-connections"
		}
		slices.SortFunc(svc.Backends, model.Backend.Compare)
		if !vips[svc.VIP4] {
			s.Services = append(s.Services, svc)
			vips[svc.VIP4] = true
		}
	}
	return s
}

// settle ends every drain, frees what it held, and lets the next full pass and
// sweep forget the tables before.
func settle(t *testing.T, target *Target, c *clock, last *model.State) {
	t.Helper()
	for range 2 {
		c.now = c.now.Add(time.Hour)
		if err := target.Sweep(); err != nil {
			t.Fatal(err)
		}
		apply(t, target, last)
	}
}

// States applied in any order end in the same maps as the last one alone, also
// when agents come and go in between.
func TestStatesEndInTheSameMaps(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
		target := newTarget(t, m, c)
		var last *model.State
		for g := range uint64(1 + r.IntN(12)) {
			if r.IntN(4) == 0 {
				target = newTarget(t, m, c)
			}
			last = randomState(r, g+1, last)
			if err := target.Apply(context.Background(), last); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			c.now = c.now.Add(time.Duration(r.IntN(20)) * time.Second)
			if r.IntN(3) == 0 {
				if err := target.Sweep(); err != nil {
					t.Fatal(err)
				}
			}
		}
		settle(t, target, c, last)

		alone := newFakeMaps()
		if err := newTarget(t, alone, c).Apply(context.Background(), last); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(alone.dump(), m.dump()); diff != "" {
			t.Fatalf("seed %d: maps differ from those of the last state alone (-alone +history)\n%s", seed, diff)
		}
		if bad := m.uneven(last); bad != "" {
			t.Fatalf("seed %d: %s", seed, bad)
		}
		if len(m.broken) > 0 {
			t.Fatalf("seed %d: programs could have seen half a change: %v", seed, m.broken)
		}
	}
}

// Injected errors heal: once writes work again the next Apply ends in the same
// maps, and at no moment did a service lead nowhere.
func TestFaultsHeal(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
		m.rnd = rand.New(rand.NewPCG(seed, 2))
		target := newTarget(t, m, c)
		var last *model.State
		for g := range uint64(1 + r.IntN(8)) {
			m.faults = []float64{0, 0.02, 0.2}[r.IntN(3)]
			last = randomState(r, g+1, last)
			for range r.IntN(3) + 1 {
				_ = target.Apply(context.Background(), last)
			}
			_ = target.Sweep()
		}
		m.faults = 0
		if err := target.Apply(context.Background(), last); err != nil {
			t.Fatalf("seed %d: did not heal: %v", seed, err)
		}
		settle(t, target, c, last)
		alone := newFakeMaps()
		if err := newTarget(t, alone, c).Apply(context.Background(), last); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(alone.dump(), m.dump()); diff != "" {
			t.Fatalf("seed %d: maps differ after faults (-alone +healed)\n%s", seed, diff)
		}
		if bad := m.uneven(last); bad != "" {
			t.Fatalf("seed %d: %s", seed, bad)
		}
		if len(m.broken) > 0 {
			t.Fatalf("seed %d: programs could have seen half a change: %v", seed, m.broken)
		}
	}
}

func stateOfOne(generation uint64, backends ...string) *model.State {
	svc := model.Service{
		Name: model.ServiceName{Project: "web", User: "user"}, VIP4: netip.MustParseAddr("198.18.0.10"),
		Ports: []model.Port{{Service: 90, Container: 8090, Protocol: model.TCP}}, Drain: 30 * time.Second,
	}
	for _, b := range backends {
		svc.Backends = append(svc.Backends, model.Backend{Addr4: netip.MustParseAddr(b), Weight: 1})
	}
	return &model.State{Generation: generation, Services: []*model.Service{&svc}}
}

// stateOfHundred has as many services at 198.18.1.0 and so on, of two replicas each.
func stateOfHundred() *model.State {
	s := &model.State{Generation: 1}
	for i := range 100 {
		one := stateOfOne(1, fmt.Sprintf("10.1.%d.2", i), fmt.Sprintf("10.1.%d.3", i)).Services[0]
		one.Name.Project, one.VIP4 = fmt.Sprintf("p%02d", i), netip.AddrFrom4([4]byte{198, 18, 1, byte(i)})
		s.Services = append(s.Services, one)
	}
	return s
}

func apply(t *testing.T, target *Target, s *model.State) {
	t.Helper()
	if err := target.Apply(context.Background(), s); err != nil {
		t.Fatal(err)
	}
}

// Issue "L4 ahead of every anchor": a change touches its own entries only, and
// what others share with it.
func TestAChangeTouchesItsOwnEntries(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	s := stateOfHundred()
	apply(t, target, s)
	change := func(want int, what string, do func(svc *model.Service)) {
		t.Helper()
		next := &model.State{Generation: s.Generation + 1, Services: slices.Clone(s.Services)}
		svc := *s.Services[42]
		svc.Backends = slices.Clone(svc.Backends)
		do(&svc)
		next.Services[42] = &svc
		s, m.writes = next, 0
		apply(t, target, s)
		if m.writes != want {
			t.Errorf("%s: %d writes, wanted %d", what, m.writes, want)
		}
	}
	change(0, "another drain time", func(svc *model.Service) { svc.Drain++ })
	change(3, "a replica goes: table, service, the replica's entry", func(svc *model.Service) { svc.Backends = svc.Backends[:1] })
	change(4, "a replica comes: filter, its entry, table, service", func(svc *model.Service) {
		svc.Backends = append(svc.Backends, model.Backend{Addr4: netip.MustParseAddr("10.1.42.9"), Weight: 1})
	})
	key := bpf.ServiceKey{VIP: netip.AddrFrom4([4]byte{198, 18, 1, 7}), Port: 90, Proto: 6}
	if m.services[key].Flows {
		t.Fatal("a service without shared replicas follows flow entries")
	}
	change(5, "another service's replica comes: its entry, table, both services, one twice", func(svc *model.Service) {
		svc.Backends = append(svc.Backends, model.Backend{Addr4: netip.MustParseAddr("10.1.7.2"), Weight: 1})
	})
	if !m.services[key].Flows {
		t.Error("the flows of the service that shares its replica have no entries")
	}
	alone := newFakeMaps()
	settle(t, target, c, s)
	apply(t, newTarget(t, alone, c), s)
	if diff := cmp.Diff(alone.dump(), m.dump()); diff != "" {
		t.Errorf("-alone +changed\n%s", diff)
	}
}

func TestSameStateTwiceDoesNoWork(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	s := stateOfOne(1, "10.1.0.2", "10.1.0.3")
	apply(t, target, s)
	m.writes = 0
	apply(t, target, s)
	apply(t, newTarget(t, m, c), s) // nor does a new agent
	if m.writes != 0 {
		t.Errorf("%d writes for a state that was there", m.writes)
	}
}

func TestIDsAreKeptOverRestarts(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	apply(t, newTarget(t, m, c), stateOfOne(1, "10.1.0.2", "10.1.0.3"))
	key := bpf.ServiceKey{VIP: netip.MustParseAddr("198.18.0.10"), Port: 90, Proto: 6}
	id := m.services[key].ID
	backends := maps.Clone(m.backends)
	m.stats[id] = bpf.ServiceStats{Connections: 42}

	restarted := newTarget(t, m, c)
	apply(t, restarted, stateOfOne(1, "10.1.0.2", "10.1.0.3", "10.1.0.4"))
	if got := m.services[key].ID; got != id {
		t.Errorf("the service's id was %d and is %d", id, got)
	}
	for i, b := range backends {
		if m.backends[i].Addr != b.Addr {
			t.Errorf("backend %d was %s and is %s", i, b.Addr, m.backends[i].Addr)
		}
	}
	stats, err := restarted.Stats()
	if err != nil || len(stats.Services) != 1 || stats.Services[0].Connections != 42 {
		t.Errorf("counters after the restart: %+v, %v", stats.Services, err)
	}
}

func TestIdleFlowsExpireInPairs(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	apply(t, target, stateOfOne(1, "10.1.0.2"))
	m.jiffies = 1e6
	add := func(port uint16, proto uint8, fwdIdle, revIdle time.Duration, state uint8) bpf.FlowKey {
		client := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port)
		vip, back := netip.MustParseAddrPort("198.18.0.10:90"), netip.MustParseAddrPort("10.1.0.2:8090")
		k := bpf.FlowKey{Src: client, Dst: vip, Proto: proto}
		seen := func(idle time.Duration) uint32 { return uint32(m.jiffies) - uint32(idle.Milliseconds()) }
		m.flows[k] = bpf.Flow{Src: client, Dst: back, State: state, Seen: seen(fwdIdle)}
		m.flows[bpf.FlowKey{Src: back, Dst: client, Proto: proto}] = bpf.Flow{Src: vip, Dst: client, Flags: bpf.FlowReply, State: state, Seen: seen(revIdle)}
		return k
	}
	const fins = bpf.FlowFinClient | bpf.FlowFinBackend
	keep := []bpf.FlowKey{
		add(1, 6, 15*time.Minute, 15*time.Minute, 0), // established and idle
		add(2, 17, 5*time.Minute, time.Second, 0),    // one direction is busy
		add(3, 6, 5*time.Second, 5*time.Second, fins),
		add(4, 6, time.Minute, time.Minute, bpf.FlowFinClient), // half closed
	}
	drop := []bpf.FlowKey{
		add(5, 17, 4*time.Minute, 4*time.Minute, 0),
		add(6, 6, time.Minute, time.Minute, fins),
		add(7, 6, time.Minute, time.Minute, bpf.FlowRST),
	}
	if err := target.Sweep(); err != nil {
		t.Fatal(err)
	}
	for _, k := range keep {
		if _, ok := m.flows[k]; !ok {
			t.Errorf("flow of client port %d expired", k.Src.Port())
		}
	}
	for _, k := range drop {
		if f, ok := m.flows[k]; ok {
			t.Errorf("flow of client port %d did not expire", k.Src.Port())
		} else if _, ok := m.flows[f.Twin(k.Proto)]; ok {
			t.Errorf("the other direction of client port %d did not expire", k.Src.Port())
		}
	}
}

// What stays in a line, and has been idle for longer than flows like it are
// remembered, is nothing that a backend is busy with.
func TestIdleFlowsAreNoLoad(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	target := newTarget(t, m, c)
	apply(t, target, stateOfOne(1, "10.1.0.2"))
	m.jiffies, m.early = 1e6, map[bpf.FlowKey]bool{}
	for i, f := range []struct {
		proto uint8
		idle  time.Duration
		state uint8
	}{
		{6, 50 * time.Second, 0},
		{6, 70 * time.Second, 0}, // too long
		{17, 50 * time.Second, 0},
		{17, 70 * time.Second, 0}, // too long
		{17, 170 * time.Second, bpf.FlowAnswered},
		{17, 190 * time.Second, bpf.FlowAnswered}, // too long
	} {
		client := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), uint16(i+1))
		k := bpf.FlowKey{Src: client, Dst: netip.MustParseAddrPort("198.18.0.10:90"), Proto: f.proto}
		m.early[k] = true
		m.flows[k] = bpf.Flow{
			Src: client, Dst: netip.MustParseAddrPort("10.1.0.2:8090"), Backend: 1, Flags: bpf.FlowLeast, State: f.state,
			Seen: uint32(m.jiffies) - uint32(f.idle.Milliseconds()),
		}
	}
	told := 0
	if err := target.Flows(t.Context(), FlowFilter{}, func(Flow) bool { told++; return true }); err != nil || told != 3 {
		t.Errorf("%d flows are told of, want 3: %v", told, err)
	}
	if err := target.Sweep(); err != nil {
		t.Fatal(err)
	}
	if m.load[1] != 3 {
		t.Errorf("the backend is busy with %d flows, want 3", m.load[1])
	}
}

func TestFullMapsAreReported(t *testing.T) {
	m, c := newFakeMaps(), &clock{time.Unix(1e9, 0)}
	m.sizes.Backends = 1
	target := newTarget(t, m, c)
	err := target.Apply(context.Background(), stateOfOne(1, "10.1.0.2", "10.1.0.3"))
	if err == nil {
		t.Fatal("two backends fitted into a map of one")
	}
	m.sizes.Backends = 2
	apply(t, target, stateOfOne(1, "10.1.0.2", "10.1.0.3"))
}
