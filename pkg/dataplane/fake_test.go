// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

var errFault = errors.New("injected fault")

// fakeMaps behaves as bpf.Objects does, in memory. With faults above zero each
// write fails with that probability, before or after it has taken effect.
type fakeMaps struct {
	sizes     bpf.Sizes
	services  map[bpf.ServiceKey]bpf.Service
	backends  map[uint32]bpf.Backend
	allows    map[bpf.Allow]bool
	filter    map[netip.Addr]bool
	slots     []uint32
	flows     map[bpf.FlowKey]bpf.Flow
	stats     map[uint32]bpf.ServiceStats
	sources   []netip.Addr
	ports     map[bpf.PortClass][]bpf.SourcePort
	load      map[uint32]uint32
	early     map[bpf.FlowKey]bool // of flows: those that nobody has confirmed
	jiffies   uint64
	mendUntil uint64

	looks  int                  // at all flows
	onLook func(look int) error // before each; optional

	faults float64
	rnd    *rand.Rand
	writes int
	// order is checked at every write of a service: what it leads to must exist.
	broken []string
}

func newFakeMaps() *fakeMaps {
	return &fakeMaps{
		sizes:    bpf.Sizes{Services: 512, Backends: 512, Slots: 1 << 17, Flows: 4096},
		services: map[bpf.ServiceKey]bpf.Service{},
		backends: map[uint32]bpf.Backend{},
		allows:   map[bpf.Allow]bool{},
		filter:   map[netip.Addr]bool{},
		slots:    make([]uint32, 1<<17),
		flows:    map[bpf.FlowKey]bpf.Flow{},
		stats:    map[uint32]bpf.ServiceStats{},
		sources:  make([]netip.Addr, bpf.MaxSources),
		ports:    map[bpf.PortClass][]bpf.SourcePort{},
		load:     map[uint32]uint32{},
		jiffies:  1 << 20,
		rnd:      rand.New(rand.NewPCG(1, 2)),
	}
}

// write runs a write, or fails instead of it or after it.
func (m *fakeMaps) write(do func()) error {
	m.writes++
	if m.faults == 0 || m.rnd.Float64() >= m.faults {
		do()
		return nil
	}
	if m.rnd.IntN(2) == 0 {
		do()
	}
	return errFault
}

func (m *fakeMaps) Sizes() bpf.Sizes { return m.sizes }

func (m *fakeMaps) EachService(yield func(bpf.ServiceKey, bpf.Service) bool) error {
	maps.All(m.services)(yield)
	return nil
}

func (m *fakeMaps) PutService(k bpf.ServiceKey, s bpf.Service) error {
	if !m.filter[k.VIP] {
		m.broken = append(m.broken, fmt.Sprintf("service %s:%d is not in the filter", k.VIP, k.Port))
	}
	need := bpf.BackendUsed | bpf.BackendOpen
	if old := m.services[k]; old.Base == s.Base {
		need = bpf.BackendUsed // the table it had: some may be closed by now
	}
	for _, id := range m.slots[s.Base : s.Base+s.Len] {
		b, ok := m.backends[id]
		if !ok || b.Flags&need != need || b.Service != s.ID {
			m.broken = append(m.broken, fmt.Sprintf("service %s:%d leads to backend %d = %+v", k.VIP, k.Port, id, b))
		}
	}
	return m.write(func() { m.services[k] = s })
}

func (m *fakeMaps) DeleteService(k bpf.ServiceKey) error {
	return m.write(func() { delete(m.services, k) })
}

func (m *fakeMaps) EachAllow(yield func(bpf.Allow) bool) error {
	maps.Keys(m.allows)(yield)
	return nil
}

func (m *fakeMaps) PutAllow(a bpf.Allow) error { return m.write(func() { m.allows[a] = true }) }

func (m *fakeMaps) DeleteAllow(a bpf.Allow) error { return m.write(func() { delete(m.allows, a) }) }

func (m *fakeMaps) AddFilter(addrs iter.Seq[netip.Addr]) error {
	next := maps.Clone(m.filter)
	for a := range addrs {
		next[a] = true
	}
	return m.setFilter(next)
}

func (m *fakeMaps) SetFilter(addrs iter.Seq[netip.Addr]) error {
	next := map[netip.Addr]bool{}
	for a := range addrs {
		next[a] = true
	}
	return m.setFilter(next)
}

func (m *fakeMaps) setFilter(next map[netip.Addr]bool) error {
	if maps.Equal(m.filter, next) {
		return nil
	}
	return m.write(func() { m.filter = next })
}

func (m *fakeMaps) EachBackend(yield func(uint32, bpf.Backend) bool) error {
	for _, id := range slices.Sorted(maps.Keys(m.backends)) {
		if !yield(id, m.backends[id]) {
			break
		}
	}
	return nil
}

func (m *fakeMaps) PutBackend(i uint32, b bpf.Backend) error {
	if i >= m.sizes.Backends {
		return fmt.Errorf("backend %d of %d", i, m.sizes.Backends)
	}
	if old, used := m.backends[i]; used && b.Flags != 0 && (old.Addr != b.Addr || old.Port != b.Port || old.Proto != b.Proto) {
		m.broken = append(m.broken, fmt.Sprintf("backend %d changed from %s:%d to %s:%d in use", i, old.Addr, old.Port, b.Addr, b.Port))
	}
	return m.write(func() {
		if b.Flags == 0 {
			delete(m.backends, i)
		} else {
			m.backends[i] = b
		}
	})
}

func (m *fakeMaps) Slots(base uint32, into []uint32) error {
	if uint64(base)+uint64(len(into)) > uint64(len(m.slots)) {
		return fmt.Errorf("slots %d+%d of %d", base, len(into), len(m.slots))
	}
	copy(into, m.slots[base:])
	return nil
}

func (m *fakeMaps) PutSlots(base uint32, ids []uint32) error {
	for k, s := range m.services {
		for _, table := range append(s.Old[:], bpf.Table{Base: s.Base, Len: s.Len}) {
			if table.Len > 0 && base < table.Base+table.Len && table.Base < base+uint32(len(ids)) {
				m.broken = append(m.broken, fmt.Sprintf("slots %d+%d were written under service %s:%d", base, len(ids), k.VIP, k.Port))
			}
		}
	}
	return m.write(func() { copy(m.slots[base:], ids) })
}

func (m *fakeMaps) EachFlow(yield func(bpf.FlowKey, bpf.Flow, bool) bool) error {
	m.looks++
	if m.onLook != nil {
		if err := m.onLook(m.looks); err != nil {
			return err
		}
	}
	for k, f := range m.flows {
		if !yield(k, f, !m.early[k]) {
			return nil
		}
	}
	return nil
}

func (m *fakeMaps) PutFlow(k bpf.FlowKey, f bpf.Flow, _ bool) error {
	return m.write(func() { m.flows[k] = f })
}

func (m *fakeMaps) DeleteFlow(k bpf.FlowKey, _ bpf.Flow) (bool, error) {
	_, there := m.flows[k]
	return there, m.write(func() { delete(m.flows, k) })
}

func (m *fakeMaps) Sources() ([]netip.Addr, error) { return slices.Clone(m.sources), nil }

func (m *fakeMaps) PutSource(i uint16, a netip.Addr) error {
	return m.write(func() { m.sources[i] = a })
}

func (m *fakeMaps) PortLimit() uint32 { return 1 << 18 }

func (m *fakeMaps) TakePort(c bpf.PortClass) (p bpf.SourcePort, ok bool, err error) {
	if len(m.ports[c]) == 0 {
		return p, false, nil
	}
	p, m.ports[c] = m.ports[c][0], m.ports[c][1:]
	return p, true, nil
}

func (m *fakeMaps) GivePort(c bpf.PortClass, p bpf.SourcePort) error {
	m.ports[c] = append(m.ports[c], p)
	return nil
}

func (m *fakeMaps) SetLoad(backend, flows uint32) error {
	m.load[backend] = flows
	return nil
}

func (m *fakeMaps) MendUntil(jiffies uint64) error {
	m.mendUntil = jiffies
	return nil
}

func (m *fakeMaps) Clock() (uint64, time.Duration, error) {
	return m.jiffies, time.Duration(m.jiffies) * time.Millisecond, nil
}

func (m *fakeMaps) EachPacketCount(func(uint32, int, uint64)) error { return nil }

func (m *fakeMaps) ServiceStats(id uint32) (bpf.ServiceStats, error) { return m.stats[id], nil }

func (m *fakeMaps) ResetServiceStats(id uint32) error {
	return m.write(func() { delete(m.stats, id) })
}

// dump says where every service leads, without ids and places: two histories
// that end in the same state must end in the same text. Which slot is whose, and
// how many there are, depends on the tables before; see shares.
func (m *fakeMaps) dump() string {
	var lines []string
	for k, s := range m.services {
		if k.Port == 0 {
			lines = append(lines, fmt.Sprintf("vip %s", k.VIP))
			continue
		}
		line := fmt.Sprintf("service %s:%d/%d", k.VIP, k.Port, k.Proto)
		members := map[string]bool{}
		for _, id := range m.slots[s.Base : s.Base+s.Len] {
			members[fmt.Sprintf(" %s:%d", m.backends[id].Addr, m.backends[id].Port)] = true
		}
		line += strings.Join(slices.Sorted(maps.Keys(members)), "")
		for a := range m.allows {
			if a.Service == s.ID {
				line += fmt.Sprintf("\n  allow %s", a.Source)
			}
		}
		lines = append(lines, fmt.Sprintf("%s affinity %d rate %d/%d flows %t nat %t least %t old %v",
			line, s.Affinity, s.Rate, s.Burst, s.Flows, s.NAT, s.Least, s.Old))
	}
	for _, b := range m.backends {
		lines = append(lines, fmt.Sprintf("backend %s:%d/%d flags %02x if %d", b.Addr, b.Port, b.Proto, b.Flags, b.IfIndex))
	}
	for a := range m.filter {
		lines = append(lines, fmt.Sprintf("filter %s", a))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// uneven tells which service's table does not share its slots out by weight.
func (m *fakeMaps) uneven(s *model.State) string {
	for _, svc := range s.Services {
		for _, p := range svc.Ports {
			for _, vip := range svc.VIPs() {
				entry := m.services[bpf.ServiceKey{VIP: vip, Port: p.Service, Proto: uint8(p.Protocol)}]
				got, sum := map[netip.Addr]float64{}, 0.0
				for _, id := range m.slots[entry.Base : entry.Base+entry.Len] {
					got[m.backends[id].Addr]++
				}
				serving := svc.Serving(vip)
				for _, b := range serving {
					sum += float64(b.Weight)
				}
				if len(got) != len(serving) {
					return fmt.Sprintf("%s %s: %d backends have slots of %d", svc.Name, vip, len(got), len(serving))
				}
				for _, b := range serving {
					want := float64(entry.Len) * float64(b.Weight) / sum
					if d := got[b.Addr(vip)] - want; d < -want/50-2 || d > want/50+2 {
						return fmt.Sprintf("%s %s: %s has %.0f of %d slots, wanted %.1f", svc.Name, vip, b.Addr(vip), got[b.Addr(vip)], entry.Len, want)
					}
				}
			}
		}
	}
	return ""
}

// anyHop leads everywhere over interface 7.
type anyHop struct{}

func (anyHop) Track([]netip.Addr)       {}
func (anyHop) Follow(_, _ []netip.Addr) {}
func (anyHop) Lookup(a netip.Addr) nexthop.Hop {
	return nexthop.Hop{Addr: a, IfIndex: 7, MAC: [6]byte{2, 0, 0, 0, 0, 9}, SrcMAC: [6]byte{2, 0, 0, 0, 0, 7}}
}

// clock is set by hand.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }
