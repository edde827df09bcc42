// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/maglev"
)

// kernel is what the maps hold, as far as writes were accepted. It is changed
// only after the kernel said yes, so that a failed Apply can go on from it.
type kernel struct {
	services map[bpf.ServiceKey]bpf.Service
	allows   map[bpf.Allow]bool
	backends map[uint32]entry
	byName   map[replica]uint32
	tables   map[tableName]span
	drains   bool            // something was draining when the last write began
	usedIDs  map[uint32]bool // ids that something refers to, since the last write began
	nextID   uint32
	// needFlows is what the last state said of its tables: see there.
	needFlows map[tableName]bool
	ids       map[portName]uint32 // counters of service ports
	names     map[uint32]portName // the reverse; ids nobody claimed yet are absent
	ranges    ranges
}

// entry is a backend in the map. Entries nobody wants drain until their flows
// are released.
type entry struct {
	bpf.Backend
	name    replica
	release time.Time // zero: wanted
}

// span is a table in the map and the backends it was made of.
type span struct {
	base, len uint32
	slots     []uint32
	since     time.Time // zero: adopted
	members   []maglev.Backend
	ids       []uint32 // of members
}

// adopt reads the maps. Who owns what is only known by the first state: until
// then entries keep their ids by address (claim).
func (t *Target) adopt() error {
	t.kernel = kernel{
		backends: map[uint32]entry{},
		byName:   map[replica]uint32{},
		tables:   map[tableName]span{},
		ids:      map[portName]uint32{},
		names:    map[uint32]portName{},
	}
	t.filterTrim = true // an earlier agent may have left addresses in it
	return t.reread()
}

// reread takes services and backends as the maps have them, not as they were
// written, and forgets tables whose slots are not what they should be.
func (t *Target) reread() error {
	services, err := t.cfg.Maps.Services()
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	backends, err := t.cfg.Maps.Backends()
	if err != nil {
		return fmt.Errorf("read backends: %w", err)
	}
	allows, err := t.cfg.Maps.Allows()
	if err != nil {
		return err
	}
	k := &t.kernel
	k.allows = allows
	for id, e := range k.backends {
		e.Backend = backends[id] // zero if somebody removed it
		k.backends[id] = e
	}
	for id, b := range backends {
		if _, known := k.backends[id]; !known {
			k.backends[id] = entry{Backend: b}
		}
	}
	k.services = services
	k.ranges = newRanges(t.cfg.Maps.Sizes().Slots)
	for _, s := range services {
		k.ranges.take(s.Base, s.Len)
		for _, old := range s.Old {
			k.ranges.take(old.Base, old.Len)
		}
	}
	for name, sp := range k.tables {
		slots, err := t.cfg.Maps.Slots(sp.base, sp.len)
		if err != nil {
			return fmt.Errorf("read table of %s: %w", name.owner.service, err)
		}
		if !slices.Equal(slots, sp.slots) {
			delete(k.tables, name)
			continue
		}
		k.ranges.take(sp.base, sp.len)
	}
	return nil
}

// claim gives every wanted service port and backend the id it had in the maps
// of an earlier agent, recognised by address and port.
func (t *Target) claim(want *desired) {
	k := &t.kernel
	for key, name := range want.services {
		have, ok := k.services[key]
		if !ok || name == (tableName{}) {
			continue
		}
		if _, known := k.ids[name.owner]; known {
			continue
		}
		if _, taken := k.names[have.ID]; taken {
			continue
		}
		k.ids[name.owner], k.names[have.ID] = have.ID, name.owner
	}
	type place struct {
		service uint32
		addr    netip.Addr
		port    uint16
	}
	unnamed := map[place]uint32{}
	for id, e := range k.backends {
		if e.name == (replica{}) {
			unnamed[place{e.Service, e.Addr, e.Port}] = id
		}
	}
	if len(unnamed) == 0 {
		return
	}
	for name, b := range want.backends {
		svc, ok := k.ids[name.owner]
		if _, known := k.byName[name]; known || !ok {
			continue
		}
		if id, found := unnamed[place{svc, b.Addr, b.Port}]; found {
			e := k.backends[id]
			e.name = name
			k.backends[id], k.byName[name] = e, id
		}
	}
}

// serviceID is the id of a service port, a new one if it has none.
func (t *Target) serviceID(name portName) (uint32, error) {
	k := &t.kernel
	if id, ok := k.ids[name]; ok {
		return id, nil
	}
	size := t.cfg.Maps.Sizes().Services
	// 0 stays free: it is what VIP markers have.
	for range size {
		id := k.nextID%(size-1) + 1
		k.nextID = id
		if k.usedIDs[id] {
			continue
		}
		if err := t.cfg.Maps.ResetServiceStats(id); err != nil {
			return 0, err
		}
		k.ids[name], k.names[id], k.usedIDs[id] = id, name, true
		return id, nil
	}
	return 0, fmt.Errorf("service %s port %d: the maps hold %d service ports and all are taken",
		name.service, name.port, size-1)
}

// countIDs notes which ids something refers to.
func (k *kernel) countIDs() {
	k.usedIDs = map[uint32]bool{}
	for id := range k.names {
		k.usedIDs[id] = true
	}
	for _, s := range k.services {
		k.usedIDs[s.ID] = true
	}
	for _, e := range k.backends {
		k.usedIDs[e.Service] = true
	}
}

// backendID is a free index in the backends map.
func (t *Target) backendID(from uint32) (uint32, error) {
	n := t.cfg.Maps.Sizes().Backends
	for i := range n {
		id := (from + i) % n
		if _, used := t.kernel.backends[id]; !used {
			return id, nil
		}
	}
	return 0, fmt.Errorf("the maps hold %d backends and all are taken", n)
}

// forget drops the ids of service ports that have neither entry nor backend.
func (t *Target) forget(want *desired) {
	k := &t.kernel
	live := map[portName]bool{}
	for _, name := range want.services {
		live[name.owner] = true
	}
	for _, e := range k.backends {
		live[e.name.owner] = true
	}
	for name, id := range k.ids {
		if !live[name] {
			delete(k.ids, name)
			delete(k.names, id)
		}
	}
}

// drainOf is how long a backend that nobody wants keeps its flows. After a
// restart only its service's id tells whose it was.
func (t *Target) drainOf(want *desired, e entry) time.Duration {
	owner := e.name.owner
	if e.name == (replica{}) {
		owner = t.kernel.names[e.Service]
	}
	if d, ok := want.drains[owner.service]; ok {
		return d
	}
	return defaultDrain
}

// defaultDrain is for backends whose service is gone from the state.
const defaultDrain = 30 * time.Second
