// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"sync"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// adopt reads the maps. Who owns what is only known by the first state: until
// then entries keep their ids by address (claim).
func (t *Target) adopt() error {
	t.kernel = newKernel()
	if err := t.reread(); err != nil {
		return err
	}
	for key, s := range t.kernel.services {
		if s.Flows && key.Proto == uint8(model.TCP) {
			t.kernel.halfway[key] = t.kernel.pass // nobody knows where the last agent was stopped
		}
	}
	return nil
}

// reread takes services and backends as the maps have them, not as they were
// written, and forgets tables whose slots are not what they should be.
func (t *Target) reread() error {
	t.plan.state = nil
	t.filterTrim = true // somebody may have changed it
	var wg sync.WaitGroup
	var servicesErr error
	wg.Go(func() { servicesErr = t.rereadServices() })
	err := t.rereadBackends()
	wg.Wait()
	if err := errors.Join(servicesErr, err); err != nil {
		return err
	}
	k := &t.kernel
	clear(k.allows)
	err = t.cfg.Maps.EachAllow(func(a bpf.Allow) bool {
		k.allows[a] = k.pass
		return true
	})
	if err != nil {
		return err
	}
	return t.rereadTables()
}

// served is an entry of the services map. Maps are made in their size once it is
// known how many there are: to let them grow takes twice as long.
type served struct {
	key bpf.ServiceKey
	bpf.Service
}

func (t *Target) rereadServices() error {
	k := &t.kernel
	var all paged[served]
	err := t.cfg.Maps.EachService(func(key bpf.ServiceKey, s bpf.Service) bool {
		all.add(served{key, s})
		return true
	})
	if err != nil {
		return err
	}
	k.services, k.keys = make(map[bpf.ServiceKey]bpf.Service, all.len()), make(map[uint32]int, all.len())
	for _, s := range all.each {
		k.putService(s.key, s.Service) // some may be listed twice
	}
	return nil
}

// rereadBackends adopts what is new in the map. What is known stays in the
// books as it should be: who wants it writes it again.
func (t *Target) rereadBackends() error {
	x := &t.kernel.backends
	known, next := x.all.len(), 0
	missing := func(until int) {
		for ; next < min(until, known); next++ {
			x.all.at(uint32(next)).drift = true
		}
	}
	err := t.cfg.Maps.EachBackend(func(id uint32, b bpf.Backend) bool {
		missing(int(id))
		next = int(id) + 1
		if e := x.at(id); e != nil {
			e.drift = e.Backend != b
			return true
		}
		x.put(id, b, false)
		x.next = max(x.next, id+1)
		return true
	})
	if err != nil {
		return err
	}
	missing(known)
	x.sockets.expect(&x.all, x.sockets.n+x.unclaimed)
	return nil
}

func (t *Target) rereadTables() error {
	k := &t.kernel
	taken := make([]run, 0, len(k.services))
	for _, s := range k.services {
		for table := range tablesOf(&s) {
			taken = append(taken, run{table.Base, table.Len})
		}
	}
	for name, sp := range k.tables {
		slots, err := t.desks[0].read(t.cfg.Maps, sp.base, sp.len)
		if err != nil {
			return fmt.Errorf("read table of %s: %w", name.owner.service, err)
		}
		if sumOf(slots) != sp.sum {
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

// recognise gives what the delta wants the ids of an earlier agent, and lets the
// filter pass its addresses. Of the sockets of a million backends to take note
// takes as long as to find them, and so does the filter: both are done meanwhile.
func (t *Target) recognise(d *delta) error {
	x := &t.kernel.backends
	if !d.full { // done before another goroutine could begin
		t.claim(d.fresh, x.noteSockets)
		return t.cfg.Maps.AddFilter(d.addrs())
	}
	found := make(chan []uint32, 8)
	var filtered error
	var wg sync.WaitGroup
	wg.Go(func() { filtered = t.cfg.Maps.AddFilter(d.addrs()) })
	wg.Go(func() {
		for ids := range found {
			x.noteSockets(ids)
		}
	})
	t.claim(d.fresh, func(ids []uint32) { found <- ids })
	close(found)
	wg.Wait()
	return filtered
}

// claim gives every wanted service port and backend the id it had in the maps
// of an earlier agent, recognised by address and port. note gets the backends.
func (t *Target) claim(units []unit, note func([]uint32)) {
	k := &t.kernel
	x := &k.backends
	k.expect(len(units))
	var some []uint32
	for p := range eachPort(units) {
		if p.id = k.ids[p.owner]; p.id == 0 {
			t.claimID(p)
		}
		if p.id == 0 || x.unclaimed == 0 {
			continue
		}
		g := x.group(p.id)
		for _, tb := range p.tables {
			for i := range tb.backends {
				if id, ok := x.claim(&g, tb.backends[i].Addr, tb.backends[i].Port); ok {
					some = append(some, id)
				}
			}
		}
		if len(some) >= claimsAtOnce {
			note(some)
			some = make([]uint32, 0, cap(some))
		}
	}
	note(some)
}

// claimsAtOnce is about how many claims are handed on together.
const claimsAtOnce = 4096

// claimID finds the id of a service port by the keys it is reached under.
func (t *Target) claimID(p *port) {
	k := &t.kernel
	for _, tb := range p.tables {
		for _, key := range tb.keys {
			have, ok := k.services[key]
			if !ok || have.ID == 0 {
				continue
			}
			if _, taken := k.names[have.ID]; !taken {
				k.ids[p.owner], k.names[have.ID], p.id = have.ID, p.owner, have.ID
				return
			}
		}
	}
}

// serviceID is the id of a service port, a new one if it has none.
func (t *Target) serviceID(p *port) (uint32, error) {
	k, name := &t.kernel, p.owner
	if p.id != 0 {
		return p.id, nil
	}
	size := t.cfg.Maps.Sizes().Services
	// 0 stays free: it is what VIP markers have.
	for range size {
		id := k.nextID%(size-1) + 1
		k.nextID = id
		if _, taken := k.names[id]; taken || k.refers(id) {
			continue
		}
		if err := t.cfg.Maps.ResetServiceStats(id); err != nil {
			return 0, err
		}
		k.ids[name], k.names[id], p.id = id, name, id
		return id, nil
	}
	return 0, fmt.Errorf("service %s port %d: the maps hold %d service ports and all are taken",
		name.service, name.port, size-1)
}

// backendID is a free index in the backends map.
func (t *Target) backendID() (uint32, error) {
	x := &t.kernel.backends
	n := t.cfg.Maps.Sizes().Backends
	for i := range n {
		id := (x.next + i) % n
		if x.at(id) == nil {
			x.next = id + 1
			return id, nil
		}
	}
	return 0, fmt.Errorf("the maps hold %d backends and all are taken", n)
}

// forget drops the ids of service ports that have neither entry nor backend.
func (k *kernel) forget(names ...portName) {
	for _, name := range names {
		if id, ok := k.ids[name]; ok && !k.refers(id) {
			delete(k.ids, name)
			delete(k.names, id)
		}
	}
}
