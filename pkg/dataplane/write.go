// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/maglev"
)

// write makes the maps equal to want: backends, then tables, then services;
// then what is gone the other way round. A failure leaves the bookkeeping true
// and the rest of the work to the next Apply; nothing is deleted after one.
func (t *Target) write(want *desired) error {
	t.kernel.ranges.settle()
	t.claim(want)
	t.kernel.countIDs()
	t.kernel.drains = t.kernel.draining()
	if err := t.addFilter(want); err != nil {
		return err
	}
	if err := t.putBackends(want); err != nil {
		return err
	}
	allows, err := t.putAllows(want)
	if err != nil {
		return err
	}
	stale, err := t.putTables(want)
	if err != nil {
		return err
	}
	if err := t.deleteServices(want); err != nil {
		return err
	}
	if err := t.deleteAllows(allows); err != nil {
		return err
	}
	for _, table := range stale {
		t.kernel.ranges.release(table.Base, table.Len)
	}
	t.kernel.needFlows = want.flows
	if err := t.retireBackends(want); err != nil {
		return err
	}
	t.forget(want)
	return t.trimFilter()
}

func compareReplica(a, b replica) int {
	return cmp.Or(a.owner.service.Compare(b.owner.service), cmp.Compare(a.owner.port, b.owner.port),
		cmp.Compare(a.owner.proto, b.owner.proto), a.addr.Compare(b.addr))
}

func (t *Target) putBackends(want *desired) error {
	k := &t.kernel
	var errs []error
	next := uint32(0)
	for _, name := range slices.SortedFunc(maps.Keys(want.backends), compareReplica) {
		b := want.backends[name]
		svc, err := t.serviceID(name.owner)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		b.Service = svc
		id, ok := k.byName[name]
		if old := k.backends[id]; !ok || old.Flags&bpf.BackendUsed != 0 && old.Port != b.Port {
			// An entry in use never changes its port: programs may read it.
			if ok {
				e := k.backends[id]
				e.name = replica{}
				k.backends[id] = e
				delete(k.byName, name)
			}
			if id, err = t.backendID(next); err != nil {
				errs = append(errs, fmt.Errorf("service %s backend %s: %w", name.owner.service, name.addr, err))
				continue
			}
			next = id + 1
		}
		if err := t.putBackend(id, entry{Backend: b, name: name}); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *Target) putBackend(id uint32, e entry) error {
	k := &t.kernel
	if old, ok := k.backends[id]; !ok || old.Backend != e.Backend {
		if err := t.cfg.Maps.PutBackend(id, e.Backend); err != nil {
			return err
		}
	}
	k.backends[id] = e
	if e.name != (replica{}) {
		k.byName[e.name] = id
	}
	return nil
}

func compareTable(a, b tableName) int {
	v6 := func(n tableName) int {
		if n.v6 {
			return 1
		}
		return 0
	}
	return cmp.Or(compareReplica(replica{owner: a.owner}, replica{owner: b.owner}), cmp.Compare(v6(a), v6(b)))
}

// putTables writes every changed table into a fresh range and points its
// services there. The ranges nothing refers to any longer are returned.
func (t *Target) putTables(want *desired) (stale []bpf.Table, err error) {
	keys := map[tableName][]bpf.ServiceKey{}
	for key, name := range want.services {
		keys[name] = append(keys[name], key)
	}
	var errs []error
	for _, name := range slices.SortedFunc(maps.Keys(want.tables), compareTable) {
		gone, err := t.putTable(name, want, keys[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("service %s port %d: %w", name.owner.service, name.owner.port, err))
			continue
		}
		stale = append(stale, gone...)
	}
	errs = append(errs, t.putMarkers(keys[tableName{}]))
	return stale, errors.Join(errs...)
}

func (t *Target) putTable(name tableName, want *desired, keys []bpf.ServiceKey) (stale []bpf.Table, err error) {
	k := &t.kernel
	id, err := t.serviceID(name.owner)
	if err != nil {
		return nil, err
	}
	sp, err := t.span(name, want.tables[name], keys)
	if err != nil {
		return nil, err
	}
	before, after := map[bpf.Table]bool{}, map[bpf.Table]bool{}
	for _, key := range keys {
		if have, ok := k.services[key]; ok && have.ID == id {
			refer(before, have)
		}
		next, err := t.nextEntry(name, want, key, sp, id)
		if err != nil {
			return nil, err
		}
		if err := t.putService(key, next); err != nil {
			// Some keys may point to either table: both stay, the next Apply decides.
			return nil, err
		}
		refer(after, next)
	}
	k.tables[name] = sp
	for table := range before {
		if !after[table] {
			stale = append(stale, table)
		}
	}
	return stale, nil
}

// refer collects the ranges a service entry leads to.
func refer(to map[bpf.Table]bool, s bpf.Service) {
	for _, table := range append(s.Old[:], bpf.Table{Base: s.Base, Len: s.Len}) {
		if table.Len > 0 {
			to[table] = true
		}
	}
}

// span is the range that holds the table: the present one if it is right, else
// a fresh one, written.
func (t *Target) span(name tableName, tb table, keys []bpf.ServiceKey) (span, error) {
	k := &t.kernel
	ids := make([]uint32, len(tb.addrs))
	for i, addr := range tb.addrs {
		ids[i] = k.byName[replica{name.owner, addr}]
	}
	sp, known := k.tables[name]
	if known && slices.Equal(sp.members, tb.members) && slices.Equal(sp.ids, ids) {
		return sp, nil
	}
	slots := maglev.Table(tb.members, maglev.Size(tb.members))
	for i, member := range slots {
		slots[i] = ids[member]
	}
	if !known {
		sp, known = t.adoptTable(keys, slots)
	}
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
		k.ranges.release(sp.base, sp.len)
		return span{}, err
	}
	return sp, nil
}

// adoptTable finds the table an earlier agent wrote for the same keys.
func (t *Target) adoptTable(keys []bpf.ServiceKey, slots []uint32) (span, bool) {
	for _, key := range keys {
		have, ok := t.kernel.services[key]
		if !ok || have.Len != uint32(len(slots)) {
			continue
		}
		got, err := t.cfg.Maps.Slots(have.Base, have.Len)
		if err == nil && slices.Equal(got, slots) {
			return span{base: have.Base, len: have.Len, slots: slots}, true
		}
	}
	return span{}, false
}

func (t *Target) putService(key bpf.ServiceKey, s bpf.Service) error {
	if have, ok := t.kernel.services[key]; ok && have == s {
		return nil
	}
	if err := t.cfg.Maps.PutService(key, s); err != nil {
		return err
	}
	t.kernel.services[key] = s
	return nil
}

func (t *Target) putMarkers(keys []bpf.ServiceKey) error {
	var errs []error
	for _, key := range keys {
		errs = append(errs, t.putService(key, bpf.Service{}))
	}
	return errors.Join(errs...)
}

func (t *Target) deleteServices(want *desired) error {
	k := &t.kernel
	var errs []error
	gone := map[bpf.Table]bool{}
	for key, s := range k.services {
		if _, wanted := want.services[key]; wanted {
			continue
		}
		if key.Port != 0 && !s.Flows {
			// Its connections drain: without a table they need entries.
			if err := t.toFlows(key); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		if err := t.cfg.Maps.DeleteService(key); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(k.services, key)
		t.filterTrim = true
		refer(gone, s)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, sp := range k.tables {
		delete(gone, bpf.Table{Base: sp.base, Len: sp.len})
	}
	for name, sp := range k.tables {
		if _, wanted := want.tables[name]; !wanted {
			gone[bpf.Table{Base: sp.base, Len: sp.len}] = true
			delete(k.tables, name)
		}
	}
	for table := range gone {
		k.ranges.release(table.Base, table.Len)
	}
	return nil
}

// retireBackends closes entries nobody wants to new connections and sets the
// time at which their flows are released.
func (t *Target) retireBackends(want *desired) error {
	var errs []error
	for id, e := range t.kernel.backends {
		if _, wanted := want.backends[e.name]; wanted && e.name != (replica{}) {
			continue
		}
		if e.release.IsZero() {
			e.release = t.cfg.Now().Add(t.drainOf(want, e))
			t.alarm()
		}
		e.Flags &^= bpf.BackendOpen
		e.Backend = withHop(e.Backend, t.cfg.Hops.Lookup(e.Addr))
		if err := t.putBackend(id, e); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *Target) alarm() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}
