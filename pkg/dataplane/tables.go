// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/maglev"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// putTables writes every changed table into a fresh range and points its
// services there. The ranges nothing refers to any longer are returned.
func (t *Target) putTables(d *delta) (stale []bpf.Table, err error) {
	var errs []error
	put := func(units []unit) {
		for p := range eachPort(units) {
			for i := range p.tables {
				gone, err := t.putTable(p, &p.tables[i])
				if err != nil {
					errs = append(errs, fmt.Errorf("service %s port %d: %w", p.owner.service, p.owner.port, err))
				}
				stale = append(stale, gone...)
			}
		}
	}
	// The flows of those that share a replica from now on need entries first.
	put(t.sharers(d))
	put(d.fresh)
	for _, u := range d.fresh {
		for _, key := range u.markers {
			errs = append(errs, t.putService(key, bpf.Service{}))
		}
	}
	return stale, errors.Join(errs...)
}

// sharers are the unchanged services whose replicas the delta gave to others, too.
func (t *Target) sharers(d *delta) (units []unit) {
	k := &t.kernel
	changed := map[model.ServiceName]bool{}
	for p := range eachPort(d.fresh) {
		changed[p.owner.service] = true
	}
	for table := range k.sockets.begun {
		name := k.names[table.service].service
		if svc, ok := d.state.Service(name); ok && !changed[name] {
			changed[name] = true
			units = append(units, t.compile(svc, noHop)) // its backends are not written
		}
	}
	clear(k.sockets.begun)
	return units
}

func (t *Target) putTable(p *port, tb *table) (stale []bpf.Table, err error) {
	k := &t.kernel
	id, err := t.serviceID(p.owner)
	if err != nil {
		return nil, err
	}
	sp, err := t.span(id, tb)
	if err != nil {
		return nil, err
	}
	sp.entries, sp.pass = tb.entries, k.pass
	before, after := map[bpf.Table]bool{}, map[bpf.Table]bool{}
	for _, key := range tb.keys {
		if have, ok := k.services[key]; ok && have.ID == id {
			refer(before, have)
		}
		next, err := t.nextEntry(&p.rules, key, sp, id)
		if err != nil {
			return nil, err
		}
		if err := t.putService(key, next); err != nil {
			// Some keys may point to either table: both stay, the next Apply decides.
			return nil, err
		}
		refer(after, next)
	}
	k.tables[tb.name] = sp
	for table := range before {
		if !after[table] {
			stale = append(stale, table)
		}
	}
	return stale, nil
}

// eachTable calls do for every range a service entry leads to.
func eachTable(s bpf.Service, do func(bpf.Table)) {
	for _, table := range append(s.Old[:], bpf.Table{Base: s.Base, Len: s.Len}) {
		if table.Len > 0 {
			do(table)
		}
	}
}

func refer(to map[bpf.Table]bool, s bpf.Service) {
	eachTable(s, func(b bpf.Table) { to[b] = true })
}

// span is the range that holds the table: the present one if it is right, else
// a fresh one, written.
func (t *Target) span(svc uint32, tb *table) (span, error) {
	k := &t.kernel
	ids := make([]uint32, len(tb.addrs))
	for i, addr := range tb.addrs {
		ids[i] = k.byPlace[place{svc, addr}]
	}
	sp, known := k.tables[tb.name]
	if known && slices.Equal(sp.members, tb.members) && slices.Equal(sp.ids, ids) {
		return sp, nil
	}
	if !known {
		sp, known = t.adoptTable(tb.keys)
	}
	slots := tableAfter(sp.slots, tb.members, ids)
	if known && slices.Equal(sp.slots, slots) {
		sp.members, sp.ids = tb.members, ids
		return sp, nil
	}
	base, err := k.ranges.alloc(uint32(len(slots)))
	if err != nil {
		return span{}, err
	}
	sp = span{base: base, len: uint32(len(slots)), slots: slots, since: t.cfg.Now(), members: tb.members, ids: ids}
	if err := t.cfg.Maps.PutSlots(sp.base, slots); err != nil {
		k.ranges.release(sp.base, sp.len, t.cfg.Now())
		return span{}, err
	}
	return sp, nil
}

// tableAfter is the table of the members, whose ids are given, that moves the
// fewest slots of the last one (nil: there is none).
func tableAfter(last []uint32, members []maglev.Backend, ids []uint32) []uint32 {
	var slots []uint32
	if maglev.Fits(len(last), members) {
		index := make(map[uint32]uint32, len(ids))
		for i, id := range ids {
			index[id] = uint32(i)
		}
		owners := make([]uint32, len(last))
		for slot, id := range last {
			owner, stays := index[id]
			if !stays {
				owner = maglev.Nobody
			}
			owners[slot] = owner
		}
		slots = maglev.Next(owners, members)
	} else {
		slots = maglev.Table(members, maglev.Size(members))
	}
	for i, member := range slots {
		slots[i] = ids[member]
	}
	return slots
}

// adoptTable finds the table an earlier agent wrote for the same keys.
func (t *Target) adoptTable(keys []bpf.ServiceKey) (span, bool) {
	for _, key := range keys {
		have, ok := t.kernel.services[key]
		if !ok || have.Len == 0 {
			continue
		}
		if slots, err := t.cfg.Maps.Slots(have.Base, have.Len); err == nil {
			return span{base: have.Base, len: have.Len, slots: slots}, true
		}
	}
	return span{}, false
}
