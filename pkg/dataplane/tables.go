// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// putTables writes every changed table into a fresh range and points its
// services there. The ranges nothing refers to any longer are returned.
func (t *Target) putTables(d *delta) (stale []bpf.Table, err error) {
	var errs []error
	// The flows of those that share a replica from now on need entries first.
	for _, units := range [][]unit{t.sharers(d), d.fresh} {
		for some := range slices.Chunk(t.jobs(units), draftsAtOnce) {
			gone, err := t.putDrafts(some, t.drafts(some))
			stale, errs = append(stale, gone...), append(errs, err)
		}
	}
	for _, u := range d.fresh {
		for _, key := range u.markers {
			errs = append(errs, t.putService(key, bpf.Service{}))
		}
	}
	return stale, errors.Join(errs...)
}

// jobs lists the tables of some units.
func (t *Target) jobs(units []unit) (jobs []job) {
	for p := range eachPort(units) {
		if p.id == 0 {
			p.id = t.kernel.ids[p.owner] // of an unchanged service
		}
		for i := range p.tables {
			jobs = append(jobs, job{p, &p.tables[i]})
		}
	}
	return jobs
}

// sharers are the unchanged services whose replicas the delta gave to others, too.
func (t *Target) sharers(d *delta) (units []unit) {
	k := &t.kernel
	if len(k.backends.sockets.begun) == 0 {
		return nil
	}
	changed := map[model.ServiceName]bool{}
	for p := range eachPort(d.fresh) {
		changed[p.owner.service] = true
	}
	for table := range k.backends.sockets.begun {
		name := k.names[table.service].service
		if svc, ok := d.state.Service(name); ok && !changed[name] {
			changed[name] = true
			units = append(units, t.compile(svc, noHop)) // its backends are not written
		}
	}
	clear(k.backends.sockets.begun)
	return units
}

// placed is a table that is in the map, and what its services shall be.
type placed struct {
	span
	next    []bpf.Service // by key
	toFlows bool          // before they are written
	err     error
}

// putDrafts writes tables, and then the services that lead to them.
func (t *Target) putDrafts(jobs []job, drafts []draft) (stale []bpf.Table, err error) {
	all, toFlows := make([]placed, len(jobs)), []bpf.ServiceKey(nil)
	for i := range jobs {
		j, at := &jobs[i], &all[i]
		if at.span, at.err = t.putSlots(drafts[i]); at.err != nil {
			continue
		}
		at.entries, at.pass = j.table.entries, t.kernel.pass
		at.next = make([]bpf.Service, len(j.table.keys))
		for n, key := range j.table.keys {
			first := false
			if at.next[n], first = t.nextEntry(&j.port.rules, key, at.span, j.port.id); first {
				toFlows, at.toFlows = append(toFlows, key), true
			}
		}
	}
	flowsErr := t.toFlows(toFlows)
	var errs []error
	for i := range jobs {
		if all[i].toFlows {
			all[i].err = flowsErr
		}
		gone, err := t.putServices(&jobs[i], &all[i])
		if err != nil {
			p := jobs[i].port
			errs = append(errs, fmt.Errorf("service %s port %d: %w", p.owner.service, p.owner.port, err))
		}
		stale = append(stale, gone...)
	}
	return stale, errors.Join(errs...)
}

// putServices has a table's services lead to it. The ranges that none of them
// refers to any longer are returned.
func (t *Target) putServices(j *job, at *placed) (stale []bpf.Table, err error) {
	if at.err != nil {
		return nil, at.err
	}
	k, tb := &t.kernel, j.table
	before, after := make([]bpf.Table, 0, bpf.OldTables+1), make([]bpf.Table, 0, bpf.OldTables+1)
	for n, key := range tb.keys {
		have, next := k.services[key], at.next[n]
		if have.ID == j.port.id {
			before = slices.AppendSeq(before, tablesOf(&have))
		}
		if have != next {
			at.since = t.cfg.Now()
		}
		if err := t.putService(key, next); err != nil {
			// Some keys may point to either table: both stay, the next Apply decides.
			return nil, err
		}
		after = slices.AppendSeq(after, tablesOf(&next))
	}
	k.tables[tb.name] = at.span
	for i, table := range before {
		if !slices.Contains(after, table) && !slices.Contains(before[:i], table) {
			stale = append(stale, table)
		}
	}
	return stale, nil
}

// tablesOf lists every range that a service entry leads to.
func tablesOf(s *bpf.Service) iter.Seq[bpf.Table] {
	return func(yield func(bpf.Table) bool) {
		for _, table := range s.Old {
			if table.Len > 0 && !yield(table) {
				return
			}
		}
		if s.Len > 0 {
			yield(bpf.Table{Base: s.Base, Len: s.Len})
		}
	}
}

// putSlots writes a table that is not in the map into a fresh range.
func (t *Target) putSlots(now draft) (span, error) {
	k, sp := &t.kernel, now.span
	if now.err != nil || now.kept {
		return sp, now.err
	}
	if len(now.slots) == 0 {
		return sp, nil
	}
	base, err := k.ranges.alloc(sp.len)
	if err != nil {
		return span{}, err
	}
	sp.base = base
	if err := t.cfg.Maps.PutSlots(sp.base, now.slots); err != nil {
		k.ranges.release(sp.base, sp.len, t.cfg.Now())
		return span{}, err
	}
	return sp, nil
}

// ownerOf reads who has the slot of a hash; false if nobody can tell.
func ownerOf(maps Maps, base, n, hash uint32) (backend uint32, ok bool) {
	if n == 0 {
		return 0, false
	}
	var slot [1]uint32
	err := maps.Slots(base+hash%n, slot[:])
	return slot[0], err == nil
}
