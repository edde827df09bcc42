// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// needFlows tells which tables cannot do with the table alone. UDP has no
// handshake that would tell old from new; affinity, allow lists and rate limits
// look at every flow; and where one address and port of a replica stands behind two
// names, only an entry tells which of them a reply belongs to. All others are
// direct: a client's packet touches no flow entry (docs/design/0002-stateless.md).
func (t *Target) needFlows(want *desired) {
	keys := map[tableName]int{}
	for _, name := range want.services {
		keys[name]++
	}
	type socket struct {
		addr  netip.Addr
		port  uint16
		proto uint8
	}
	owners := map[socket]map[portName]bool{}
	own := func(s socket, name portName) {
		if owners[s] == nil {
			owners[s] = map[portName]bool{}
		}
		owners[s][name] = true
	}
	for name, b := range want.backends {
		own(socket{b.Addr, b.Port, b.Proto}, name.owner)
	}
	for _, e := range t.kernel.backends {
		if e.name != (replica{}) {
			own(socket{e.Addr, e.Port, e.Proto}, e.name.owner)
		}
	}
	for name, n := range keys {
		r := want.rules[name.owner]
		if n > 1 || name.owner.proto != model.TCP || len(r.allow) > 0 || r.affinity > 0 || r.rate.PerSecond > 0 {
			want.flows[name] = true
		}
	}
	for s, names := range owners {
		if len(names) < 2 {
			continue
		}
		for owner := range names {
			want.flows[tableName{owner: owner, v6: s.addr.Is6()}] = true
		}
	}
}

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

// nextEntry is the service entry for a table that changed from have (the zero
// value if there was none): what it remembers, and whether flows need entries.
func (t *Target) nextEntry(name tableName, want *desired, key bpf.ServiceKey, sp span, id uint32) (bpf.Service, error) {
	next := want.rules[name.owner].entry(id, sp)
	have, live := t.kernel.services[key]
	if live && have.ID != id {
		// Another service's address: its flows live on, by entries.
		next.Flows = true
		if !have.Flows {
			return next, t.toFlows(key)
		}
		return next, nil
	}
	next.Flows = want.flows[name] || live && have.Flows // the sweep sets it back
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
