// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// write makes the maps equal to a state: backends, then tables, then services;
// then what is gone the other way round. A failure leaves the bookkeeping true
// and the rest of the work to the next Apply; nothing is deleted after one.
func (t *Target) write(d *delta) error {
	k := &t.kernel
	k.pass++
	k.ranges.settle(t.cfg.Now())
	if err := t.recognise(d); err != nil {
		return err
	}
	k.drains = k.backends.draining()
	replaced, err := t.putBackends(d)
	if err != nil {
		return err
	}
	if err := t.putAllows(d); err != nil {
		return err
	}
	// A node without sources for full-nat still serves all else.
	sourceErr := t.setSources(d.state)
	stale, err := t.putTables(d)
	if err != nil {
		return err
	}
	if err := t.deleteServices(d); err != nil {
		return err
	}
	if err := t.deleteAllows(d); err != nil {
		return err
	}
	for _, table := range stale {
		k.ranges.release(table.Base, table.Len, t.cfg.Now())
	}
	if err := t.retireBackends(d, replaced); err != nil {
		return err
	}
	t.forget(d)
	if d.full {
		return errors.Join(sourceErr, t.trimFilter())
	}
	return sourceErr
}

// ports walks the service ports of some units.
func eachPort(units []unit) func(yield func(*port) bool) {
	return func(yield func(*port) bool) {
		for i := range units {
			for j := range units[i].ports {
				if !yield(&units[i].ports[j]) {
					return
				}
			}
		}
	}
}

// putBackends writes the backends of the delta. replaced are entries that had
// to make room for one with another port.
func (t *Target) putBackends(d *delta) (replaced []uint32, err error) {
	k := &t.kernel
	x := &k.backends
	var errs []error
	for p := range eachPort(d.fresh) {
		if len(p.tables) == 0 {
			continue
		}
		svc, err := t.serviceID(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		g := x.group(svc)
		for _, tb := range p.tables {
			for i := range tb.backends {
				b := tb.backends[i]
				b.Service = svc
				id, ok := g.place(b.Addr)
				fresh := !ok || x.at(id).Port != b.Port
				if fresh {
					// An entry in use never changes its port: programs may read it.
					if ok {
						x.disclaim(id)
						replaced = append(replaced, id)
					}
					if id, err = t.backendID(); err != nil {
						errs = append(errs, fmt.Errorf("service %s backend %s: %w", p.owner.service, b.Addr, err))
						continue
					}
				}
				if err := t.putBackend(id, b, true); err != nil {
					errs = append(errs, err)
					continue
				}
				if fresh {
					g = x.group(svc)
				}
				x.at(id).pass = k.pass
				delete(x.retiring, id)
			}
		}
	}
	return replaced, errors.Join(errs...)
}

func (t *Target) putBackend(id uint32, b bpf.Backend, claimed bool) error {
	x := &t.kernel.backends
	e := x.at(id)
	if e != nil && !e.drift && e.claimed == claimed && e.Backend == b {
		return nil
	}
	if err := t.cfg.Maps.PutBackend(id, b); err != nil {
		return err
	}
	x.put(id, b, claimed)
	return nil
}

func (t *Target) putService(key bpf.ServiceKey, s bpf.Service) error {
	if have, ok := t.kernel.services[key]; ok && have == s {
		return nil
	}
	if err := t.cfg.Maps.PutService(key, s); err != nil {
		return err
	}
	t.kernel.putService(key, s)
	return nil
}

// deleteServices removes the keys and tables that the state lacks.
func (t *Target) deleteServices(d *delta) error {
	k := &t.kernel
	var errs []error
	gone := map[bpf.Table]bool{}
	var keys, toFlows []bpf.ServiceKey
	// Every key that is wanted has been written: as many are there if no other is.
	if !d.full || len(k.services) != len(t.plan.keys) {
		d.eachKey(k, func(key bpf.ServiceKey) {
			s, there := k.services[key]
			if _, wanted := t.plan.keys[key]; wanted || !there {
				return
			}
			keys = append(keys, key)
			if k.direct(key, s) {
				toFlows = append(toFlows, key) // its connections drain: without a table they need entries
			}
		})
	}
	if err := t.toFlows(toFlows); err != nil {
		return err
	}
	for _, key := range keys {
		s, there := k.services[key]
		if !there {
			continue // a key that was listed twice
		}
		if err := t.cfg.Maps.DeleteService(key); err != nil {
			errs = append(errs, err)
			continue
		}
		k.dropService(key)
		t.filterTrim = true
		for table := range tablesOf(&s) {
			gone[table] = true
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.eachTable(k, func(name tableName) {
		sp, there := k.tables[name]
		if !there {
			return
		}
		own := bpf.Table{Base: sp.base, Len: sp.len}
		if sp.pass == k.pass {
			delete(gone, own)
			return
		}
		gone[own] = true
		delete(k.tables, name)
	})
	for table := range gone {
		k.ranges.release(table.Base, table.Len, t.cfg.Now())
	}
	return nil
}

// retireBackends closes entries nobody wants to new connections and sets the
// time at which their flows are released.
func (t *Target) retireBackends(d *delta, replaced []uint32) error {
	k := &t.kernel
	x := &k.backends
	var errs []error
	retire := func(id uint32) {
		e := x.at(id)
		if e == nil || e.pass == k.pass && e.claimed {
			return
		}
		b := withHop(e.Backend, t.cfg.Hops.Lookup(e.Addr))
		b.Flags &^= bpf.BackendOpen
		until, since := x.retiring[id]
		if !since {
			var err error
			if until, err = t.drainUntil(d, &b); err != nil {
				errs = append(errs, err)
			}
		}
		if err := t.putBackend(id, b, e.claimed); err != nil {
			errs = append(errs, err)
			return
		}
		if !since {
			x.retiring[id] = until
			t.alarm()
		}
	}
	for _, id := range replaced {
		retire(id)
	}
	for _, id := range d.candidates(k) {
		retire(id)
	}
	return errors.Join(errs...)
}

// drainUntil is when the drain of a backend ends that nobody wants: when an
// earlier agent said, or after the drain time from now on, which is noted in its
// entry.
func (t *Target) drainUntil(d *delta, b *bpf.Backend) (until time.Time, err error) {
	now, drain := t.cfg.Now(), t.drainOf(d, b.Service)
	_, mono, err := t.cfg.Maps.Clock()
	if err != nil {
		return now.Add(drain), err
	}
	if b.Release == 0 {
		b.Release = uint32((mono + drain + time.Second - 1) / time.Second)
		return now.Add(drain), nil
	}
	return now.Add(time.Duration(b.Release)*time.Second - mono), nil
}

// drainOf is how long a backend that nobody wants keeps its flows.
func (t *Target) drainOf(d *delta, id uint32) time.Duration {
	name := t.kernel.names[id].service
	for _, s := range [...]*model.State{d.state, d.last} {
		if s == nil {
			continue
		}
		if svc, ok := s.Service(name); ok {
			return svc.Drain
		}
	}
	return defaultDrain
}

// defaultDrain is for backends of a service that is gone and that this agent has
// not known.
const defaultDrain = 30 * time.Second

// forget drops the ids of service ports that are gone without a trace.
func (t *Target) forget(d *delta) {
	k := &t.kernel
	if d.full {
		for name := range k.ids {
			k.forget(name)
		}
		return
	}
	for p := range eachPort(d.was) {
		k.forget(p.owner)
	}
}

func (t *Target) alarm() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}
