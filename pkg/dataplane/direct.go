// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// materialize writes the client's direction of every flow of some services that
// has only the replies', so that from now on their flows follow entries.
// Unconfirmed ones too: their handshake goes on.
func (t *Target) materialize(services map[tableID]bool) error {
	type single struct {
		key       bpf.FlowKey
		flow      bpf.Flow
		confirmed bool
	}
	if len(services) == 0 {
		return nil
	}
	var found []single
	err := t.cfg.Maps.EachFlow(func(k bpf.FlowKey, f bpf.Flow, confirmed bool) bool {
		if f.Flags&bpf.FlowSingle != 0 && services[tableID{f.Service, k.Src.Addr().Is6()}] {
			found = append(found, single{k, f, confirmed})
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, s := range found {
		s.flow.Flags &^= bpf.FlowSingle
		if err := t.cfg.Maps.PutFlow(s.flow.Twin(s.key.Proto), s.flow.Turned(s.key), s.confirmed); err != nil {
			return fmt.Errorf("give flows entries: %w", err)
		}
		if err := t.cfg.Maps.PutFlow(s.key, s.flow, s.confirmed); err != nil {
			return fmt.Errorf("give flows entries: %w", err)
		}
	}
	return nil
}

// toFlows makes direct services follow flow entries, while their tables stay:
// flows that begin between the first and the second look are where the table
// says, and the second look finds them. It is the only one for those that
// follow entries already, for want of it. All flows are read twice, however
// many services there are.
func (t *Target) toFlows(keys []bpf.ServiceKey) error {
	k := &t.kernel
	first, second := map[tableID]bool{}, map[tableID]bool{}
	for _, key := range keys {
		have := k.services[key]
		id := tableID{have.ID, key.VIP.Is6()}
		if second[id] = true; !have.Flows {
			first[id] = true
		}
	}
	if err := t.materialize(first); err != nil {
		return err
	}
	for _, key := range keys {
		have := k.services[key]
		if have.Flows {
			continue
		}
		have.Flows = true
		k.halfway[key] = k.pass // also if it fails: it may have been written
		if err := t.putService(key, have); err != nil {
			return err
		}
	}
	if err := t.materialize(second); err != nil {
		return err
	}
	for _, key := range keys {
		delete(k.halfway, key)
	}
	return nil
}

// direct tells whether a service may have flows without an entry of the
// client's direction.
func (k *kernel) direct(key bpf.ServiceKey, s bpf.Service) bool {
	_, halfway := k.halfway[key]
	return key.Port != 0 && (!s.Flows || halfway)
}

// nextEntry is the service entry of a key for a table that lies at sp: what it
// remembers of the one before, and whether flows need entries. toFlows: the
// key's present flows must have them before it is written.
func (t *Target) nextEntry(r *rules, key bpf.ServiceKey, sp span, id uint32) (next bpf.Service, toFlows bool) {
	k := &t.kernel
	next = r.entry(id, sp)
	have, live := k.services[key]
	if live && have.ID != id {
		// Another service's address: its flows live on, by entries.
		next.Flows = true
		return next, k.direct(key, have)
	}
	next.Flows = k.needFlows(&sp, tableID{id, key.VIP.Is6()}) || live && have.Flows // the sweep sets it back
	if !live {
		next.Flows = next.Flows || k.drains // a service that was here before may have left flows
		return next, false
	}
	if have.Flows {
		return next, next != have && k.direct(key, have)
	}
	if !next.Flows {
		next.Old = have.Old
		if have.Base != sp.base || have.Len != sp.len {
			next.Flows = !remember(&next, bpf.Table{Base: have.Base, Len: have.Len})
		}
	}
	if next.Flows {
		next.Old = [bpf.OldTables]bpf.Table{}
	}
	return next, next.Flows
}

// remember puts a table in front of the old ones; false: there is no room.
func remember(s *bpf.Service, table bpf.Table) bool {
	if table.Len == 0 {
		return true
	}
	if s.Old[bpf.OldTables-1].Len > 0 {
		return false
	}
	copy(s.Old[1:], s.Old[:])
	s.Old[0] = table
	return true
}
