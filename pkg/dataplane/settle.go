// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"maps"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// settleAfter is how long a table and its services must stand before a sweep may
// conclude that every flow follows them: a packet that met what was before may
// still be writing its flow.
const settleAfter = time.Second

// watched is a direct service that remembers old tables, or one that follows
// entries and could do without.
type watched struct {
	key       bpf.ServiceKey
	was       bpf.Service
	elsewhere bool // a flow is not where the table says
	changed   bool // a flow has another source port towards its backend
}

type unsettled map[tableID]*watched

// watchUnsettled lists what a sweep may be able to settle.
func (t *Target) watchUnsettled() unsettled {
	k := &t.kernel
	out := unsettled{}
	for key, s := range k.services {
		if key.Port == 0 {
			continue
		}
		if t.unsettled(key, s) {
			out[tableID{s.ID, key.VIP.Is6()}] = &watched{key: key, was: s}
		}
	}
	return out
}

// unsettled tells whether a service remembers, or follows, what it may be able
// to do without.
func (t *Target) unsettled(key bpf.ServiceKey, s bpf.Service) bool {
	k := &t.kernel
	id := tableID{s.ID, key.VIP.Is6()}
	sp, known := k.tables[tableName{owner: k.names[s.ID], v6: id.v6}]
	if !known || t.cfg.Now().Sub(sp.since) < settleAfter {
		return false
	}
	// While something drains, its flows may be on an address this service took over.
	return s.Old[0].Len > 0 || s.Flows && !k.needFlows(&sp, id) && !k.backends.draining()
}

// see notes what a flow tells. Its service's table is read from the map, where it
// may have been replaced meanwhile: settle will see that, and drop the note.
func (u unsettled) see(kernel Maps, k bpf.FlowKey, f bpf.Flow) {
	w := u[tableID{f.Service, k.Src.Addr().Is6()}]
	if w == nil || f.Flags&bpf.FlowReply == 0 {
		return
	}
	if owner, ok := ownerOf(kernel, w.was.Base, w.was.Len, f.Hash); !ok || owner != f.Backend {
		w.elsewhere = true
	}
	// A hairpin flow (its source is the VIP) has entries in any case.
	if f.Flags&bpf.FlowNAT != 0 || k.Dst.Addr() == f.Dst.Addr() && k.Dst.Port() != f.Dst.Port() {
		w.changed = true
	}
}

// settle forgets the old tables of services whose flows are all where the
// present one says, and lets those follow it that need no entries.
func (t *Target) settle(all unsettled) error {
	var errs []error
	for _, w := range all {
		s, ok := t.kernel.services[w.key]
		if !ok || s != w.was || w.elsewhere || s.Flows && w.changed {
			continue
		}
		if !t.unsettled(w.key, s) {
			continue
		}
		old := s.Old
		s.Old, s.Flows = [bpf.OldTables]bpf.Table{}, false
		if err := t.putService(w.key, s); err != nil {
			errs = append(errs, err)
			continue
		}
		for _, table := range old {
			t.kernel.ranges.release(table.Base, table.Len, t.cfg.Now())
		}
	}
	return errors.Join(errs...)
}

// stragglers is a look at the services that are halfway to entries: which of
// them still have a flow without.
type stragglers struct {
	was   map[bpf.ServiceKey]uint32
	found map[tableID]bool
}

func (t *Target) watchStragglers() stragglers {
	return stragglers{was: maps.Clone(t.kernel.halfway), found: map[tableID]bool{}}
}

func (s *stragglers) see(k bpf.FlowKey, f bpf.Flow) {
	if len(s.was) > 0 && f.Flags&bpf.FlowSingle != 0 {
		s.found[tableID{f.Service, k.Src.Addr().Is6()}] = true
	}
}

// finish does what a toFlows left that failed, or was stopped with its agent.
func (t *Target) finish(s stragglers) error {
	var left []bpf.ServiceKey
	for key, pass := range s.was {
		if now, still := t.kernel.halfway[key]; !still || now != pass {
			continue
		}
		have := t.kernel.services[key]
		if have.Flows && s.found[tableID{have.ID, key.VIP.Is6()}] {
			left = append(left, key)
		} else {
			delete(t.kernel.halfway, key)
		}
	}
	return t.toFlows(left)
}
