// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// adopt reads the maps. Who owns what is only known by the first state: until
// then entries keep their ids by address (claim).
func (t *Target) adopt() error {
	t.kernel = newKernel()
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
	t.plan.state = nil
	t.filterTrim = true // somebody may have changed it
	k := &t.kernel
	clear(k.allows)
	for a := range allows {
		k.allows[a] = k.pass
	}
	for id, e := range k.backends {
		if e.Backend != backends[id] {
			e.Backend = backends[id] // zero if somebody removed it
			k.putBackend(id, e)
		}
	}
	for id, b := range backends {
		if _, known := k.backends[id]; !known {
			k.putBackend(id, entry{Backend: b, pass: k.pass})
			k.nextBackend = max(k.nextBackend, id+1)
		}
	}
	for key := range k.services {
		if _, there := services[key]; !there {
			k.dropService(key)
		}
	}
	for key, s := range services {
		k.putService(key, s)
	}
	return t.rereadTables()
}

func (t *Target) rereadTables() error {
	k := &t.kernel
	var taken []run
	take := func(b bpf.Table) { taken = append(taken, run{b.Base, b.Len}) }
	for _, s := range k.services {
		eachTable(s, take)
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
		taken = append(taken, run{sp.base, sp.len})
	}
	resting := k.ranges.resting
	for _, r := range resting {
		taken = append(taken, r.run)
	}
	k.ranges = newRanges(t.cfg.Maps.Sizes().Slots, taken)
	k.ranges.resting = resting
	return nil
}

// claim gives every wanted service port and backend the id it had in the maps
// of an earlier agent, recognised by address and port.
func (t *Target) claim(units []unit) {
	k := &t.kernel
	for i := range units {
		for j := range units[i].ports {
			p := &units[i].ports[j]
			if _, known := k.ids[p.owner]; !known {
				t.claimID(p)
			}
			id, ok := k.ids[p.owner]
			if !ok || len(k.unclaimed) == 0 {
				continue
			}
			for _, tb := range p.tables {
				for _, b := range tb.backends {
					at := place{id, b.Addr}
					if _, known := k.byPlace[at]; known {
						continue
					}
					if left, found := k.leftovers[leftover{at, b.Port}]; found {
						e := k.backends[left]
						e.place = at
						k.putBackend(left, e)
					}
				}
			}
		}
	}
}

// claimID finds the id of a service port by the keys it is reached under.
func (t *Target) claimID(p *port) {
	k := &t.kernel
	for _, tb := range p.tables {
		for _, key := range tb.keys {
			have, ok := k.services[key]
			if !ok {
				continue
			}
			if _, taken := k.names[have.ID]; !taken {
				k.ids[p.owner], k.names[have.ID] = have.ID, p.owner
				return
			}
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
		if _, taken := k.names[id]; taken || k.refs[id] > 0 {
			continue
		}
		if err := t.cfg.Maps.ResetServiceStats(id); err != nil {
			return 0, err
		}
		k.ids[name], k.names[id] = id, name
		return id, nil
	}
	return 0, fmt.Errorf("service %s port %d: the maps hold %d service ports and all are taken",
		name.service, name.port, size-1)
}

// backendID is a free index in the backends map.
func (t *Target) backendID() (uint32, error) {
	k := &t.kernel
	n := t.cfg.Maps.Sizes().Backends
	for i := range n {
		id := (k.nextBackend + i) % n
		if _, used := k.backends[id]; !used {
			k.nextBackend = id + 1
			return id, nil
		}
	}
	return 0, fmt.Errorf("the maps hold %d backends and all are taken", n)
}

// forget drops the ids of service ports that have neither entry nor backend.
func (k *kernel) forget(names ...portName) {
	for _, name := range names {
		if id, ok := k.ids[name]; ok && k.refs[id] == 0 {
			delete(k.ids, name)
			delete(k.names, id)
		}
	}
}
