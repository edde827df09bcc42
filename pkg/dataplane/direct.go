// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// materialize writes the client's direction of every flow of a service port
// that has only the replies', so that from now on its flows follow entries.
// Unconfirmed ones too: their handshake goes on.
func (t *Target) materialize(id uint32, v6 bool) error {
	type single struct {
		key       bpf.FlowKey
		flow      bpf.Flow
		confirmed bool
	}
	var found []single
	err := t.cfg.Maps.EachFlow(func(k bpf.FlowKey, f bpf.Flow, confirmed bool) bool {
		if f.Service == id && f.Flags&bpf.FlowSingle != 0 && k.Src.Addr().Is6() == v6 {
			found = append(found, single{k, f, confirmed})
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, s := range found {
		forward := s.flow
		forward.Src, forward.Dst, forward.Flags = s.flow.Dst, s.key.Src, 0
		if err := t.cfg.Maps.PutFlow(s.flow.Twin(s.key.Proto), forward, s.confirmed); err != nil {
			return fmt.Errorf("give flows entries: %w", err)
		}
		s.flow.Flags &^= bpf.FlowSingle
		if err := t.cfg.Maps.PutFlow(s.key, s.flow, s.confirmed); err != nil {
			return fmt.Errorf("give flows entries: %w", err)
		}
	}
	return nil
}

// toFlows makes a direct service follow flow entries, while its table stays:
// flows that begin between the first and the second look are where the table
// says, and the second look finds them.
func (t *Target) toFlows(key bpf.ServiceKey) error {
	have := t.kernel.services[key]
	if err := t.materialize(have.ID, key.VIP.Is6()); err != nil {
		return err
	}
	have.Flows = true
	if err := t.putService(key, have); err != nil {
		return err
	}
	return t.materialize(have.ID, key.VIP.Is6())
}

// nextEntry is the service entry of a key for a table that lies at sp: what it
// remembers of the one before, and whether flows need entries.
func (t *Target) nextEntry(r *rules, key bpf.ServiceKey, sp span, id uint32) (bpf.Service, error) {
	next := r.entry(id, sp)
	have, live := t.kernel.services[key]
	if live && have.ID != id {
		// Another service's address: its flows live on, by entries.
		next.Flows = true
		if !have.Flows {
			return next, t.toFlows(key)
		}
		return next, nil
	}
	next.Flows = t.kernel.needFlows(&sp, tableID{id, key.VIP.Is6()}) || live && have.Flows // the sweep sets it back
	if !live && t.kernel.drains {
		next.Flows = true // a service that was here before may have left flows
	}
	if !live || have.Flows {
		return next, nil
	}
	if !next.Flows {
		next.Old = have.Old
		if have.Base != sp.base || have.Len != sp.len {
			next.Flows = !remember(&next, bpf.Table{Base: have.Base, Len: have.Len})
		}
	}
	if next.Flows {
		next.Old = [bpf.OldTables]bpf.Table{}
		return next, t.toFlows(key)
	}
	return next, nil
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
