// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// plan is what the last state wants, as far as one service must know of the
// others.
type plan struct {
	state *model.State // nil: none was applied whole
	node  []netip.Addr // for node ports
	keys  map[bpf.ServiceKey]claimed
	// uses counts the services that need the node's addresses.
	uses uses
}

// uses counts services by what they need of the node.
type uses struct {
	nodePorts int
	nat       int
}

// claimed is who serves a key. Several services may lead to one VIP marker.
type claimed struct {
	owner portName // zero: a marker
	times int
}

// delta is the way from what is in the maps to a state.
type delta struct {
	state *model.State
	last  *model.State // the last that was applied whole; nil: not known
	fresh []unit       // services that are new or changed
	was   []unit       // the same as they were, and those that are gone
	// full: fresh is the whole state, and what it lacks is gone.
	full bool
}

// plot makes the delta to a state: of the changed services if the last state
// was applied whole and the rest is as it was, else of everything. It also
// tells the next-hop table what to follow.
func (t *Target) plot(s *model.State) (*delta, error) {
	last := t.plan.state
	d := &delta{state: s, last: t.whole, full: last == nil || last.Generation == s.Generation || !reflect.DeepEqual(last.Settings, s.Settings)}
	u := t.plan.uses
	if d.full {
		u = uses{}
		u.count(nil, s)
	} else {
		u.count(last, s)
	}
	node, err := t.nodeAddrs(s, u.nodePorts)
	d.full = d.full || !slices.Equal(node, t.plan.node)
	if d.full {
		t.plan = plan{keys: make(map[bpf.ServiceKey]claimed, 2*len(s.Services))}
		last = nil
		t.cfg.Hops.Track(t.tracked(s))
	} else {
		t.cfg.Hops.Follow(model.NewAddrs(last, s), nil)
	}
	t.plan.node, t.plan.uses = node, u
	before, after := changed(last, s)
	d.was, d.fresh = t.compileAll(before, noHop), t.compileAll(after, t.cfg.Hops.Lookup)
	for i := range d.was {
		t.plan.disclaim(&d.was[i])
	}
	errs := []error{err}
	for i := range d.fresh {
		errs = append(errs, t.plan.claim(&d.fresh[i]))
	}
	return d, errors.Join(errs...)
}

// changed lists the services that differ, as they were and as they are.
func changed(last, s *model.State) (before, after []*model.Service) {
	if last == nil {
		return nil, s.Services
	}
	for was, is := range model.Changes(last, s) {
		if was != nil {
			before = append(before, was)
		}
		if is != nil {
			after = append(after, is)
		}
	}
	return before, after
}

// noHop is for what was: where it led is in the maps.
func noHop(netip.Addr) nexthop.Hop { return nexthop.Hop{} }

// claim enters the keys of a service. A key that another one has is left to it.
func (p *plan) claim(u *unit) error {
	var errs []error
	for _, key := range u.markers {
		c := p.keys[key]
		p.keys[key] = claimed{times: c.times + 1}
	}
	for i := range u.ports {
		owner := u.ports[i].owner
		for j := range u.ports[i].tables {
			tb := &u.ports[i].tables[j]
			tb.keys = slices.DeleteFunc(tb.keys, func(key bpf.ServiceKey) bool {
				c, taken := p.keys[key]
				if taken {
					errs = append(errs, fmt.Errorf("service %s: %s port %d/%s is served by %s already",
						owner.service, key.VIP, key.Port, owner.proto, c.owner.service))
					return true
				}
				p.keys[key] = claimed{owner: owner, times: 1}
				return false
			})
		}
	}
	return errors.Join(errs...)
}

// disclaim takes the keys of a service back.
func (p *plan) disclaim(u *unit) {
	for _, key := range u.markers {
		c := p.keys[key]
		if c.times--; c.times > 0 {
			p.keys[key] = c
		} else {
			delete(p.keys, key)
		}
	}
	for i := range u.ports {
		for j := range u.ports[i].tables {
			for _, key := range u.ports[i].tables[j].keys {
				delete(p.keys, key)
			}
		}
	}
}

// count adds what a state uses more than another.
func (u *uses) count(old, now *model.State) {
	add := func(svc *model.Service, n int) {
		if svc != nil && len(svc.NodePorts) > 0 {
			u.nodePorts += n
		}
		if svc != nil && svc.Mode == model.ModeFullNAT {
			u.nat += n
		}
	}
	for was, is := range model.Changes(old, now) {
		add(was, -1)
		add(is, 1)
	}
}

func appendAddrs(addrs []netip.Addr, svc *model.Service) []netip.Addr {
	for i := range svc.Backends {
		for _, a := range [...]netip.Addr{svc.Backends[i].Addr4, svc.Backends[i].Addr6} {
			if a.IsValid() {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// tracked lists every address whose next hop is needed: the backends', also of
// those that are draining.
func (t *Target) tracked(s *model.State) []netip.Addr {
	n := t.kernel.backends.all.len()
	for _, svc := range s.Services {
		n += len(svc.Backends)
	}
	addrs := make([]netip.Addr, 0, n)
	for _, svc := range s.Services {
		addrs = appendAddrs(addrs, svc)
	}
	for _, e := range t.kernel.backends.each {
		addrs = append(addrs, e.Addr)
	}
	return addrs
}

func (t *Target) nodeAddrs(s *model.State, nodePorts int) ([]netip.Addr, error) {
	if nodePorts == 0 || s.Settings.Node.Addresses != nil || t.cfg.NodeAddrs == nil {
		return s.Settings.Node.Addresses, nil
	}
	addrs, err := t.cfg.NodeAddrs(s.Settings.Node.Interfaces)
	if err != nil {
		return nil, fmt.Errorf("find the node's addresses for node ports: %w", err)
	}
	return addrs, nil
}
