// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// backends is what the map of backends holds. There may be a million: what an
// entry is found by is kept small, and without pointers where it can be.
type backends struct {
	all      paged[entry]         // by index
	of       map[uint32]*owned    // by service id
	retiring map[uint32]time.Time // those on their way out: when their flows are released
	sockets  sockets

	unclaimed int    // entries whose owner is not known
	next      uint32 // where the search for a free index begins
	last      *owned // what is written next is mostly of the same service
}

// owned are the entries of a service id.
type owned struct {
	service uint32
	ids     []uint32 // in the order of addresses and ports
}

// entry is a backend in the map. Entries nobody wants drain until their flows
// are released.
type entry struct {
	bpf.Backend
	pass    uint32 // that wanted it last
	held    bool   // the index is in use
	claimed bool   // false: of an earlier agent, or replaced by one with another port
	drift   bool   // the map holds something else
}

func newBackends() backends {
	return backends{of: map[uint32]*owned{}, retiring: map[uint32]time.Time{}, sockets: newSockets()}
}

// at is the entry of an index; nil if there is none.
func (x *backends) at(id uint32) *entry {
	if int64(id) >= int64(x.all.len()) || !x.all.at(id).held {
		return nil
	}
	return x.all.at(id)
}

// each walks the entries by rising index.
func (x *backends) each(yield func(uint32, *entry) bool) {
	for id, e := range x.all.each {
		if e.held && !yield(id, e) {
			return
		}
	}
}

// group finds the entries of one service id. It is valid until one of them
// comes or goes.
type group struct {
	all  *paged[entry]
	list []uint32
	at   int // what is asked for next is mostly here
}

func (x *backends) group(service uint32) group {
	g := group{all: &x.all}
	if o := x.of[service]; o != nil {
		g.list = o.ids
	}
	return g
}

// place is the entry that the service has for an address.
func (g *group) place(addr netip.Addr) (uint32, bool) {
	for _, id := range g.search(addr) {
		if g.all.at(id).claimed {
			return id, true
		}
	}
	return 0, false
}

// search lists the entries at an address.
func (g *group) search(addr netip.Addr) []uint32 {
	from := g.at
	if from >= len(g.list) || g.all.at(g.list[from]).Addr != addr {
		from, _ = slices.BinarySearchFunc(g.list, addr, func(id uint32, addr netip.Addr) int { return g.all.at(id).Addr.Compare(addr) })
	}
	to := from
	for to < len(g.list) && g.all.at(g.list[to]).Addr == addr {
		to++
	}
	g.at = to
	return g.list[from:to]
}

// claim makes the entry that an earlier agent had for an address and port one
// of those that states want, unless there is one already. noteSockets must follow.
func (x *backends) claim(g *group, addr netip.Addr, port uint16) (id uint32, ok bool) {
	found := g.search(addr)
	for _, id := range found {
		if x.all.at(id).claimed {
			return 0, false
		}
	}
	for _, id := range found {
		if e := x.all.at(id); e.Port == port {
			e.claimed = true
			x.unclaimed--
			return id, true
		}
	}
	return 0, false
}

// noteSockets enters the sockets of claimed entries. Others may be claimed
// meanwhile, but none put or dropped.
func (x *backends) noteSockets(ids []uint32) {
	for _, id := range ids {
		x.sockets.add(&x.all, id)
	}
}

// put notes what an index holds.
func (x *backends) put(id uint32, b bpf.Backend, claimed bool) {
	if e := x.at(id); e != nil && e.claimed == claimed && e.Service == b.Service && socketOf(&e.Backend) == socketOf(&b) {
		e.Backend, e.drift = b, false // nothing that it is found by
		return
	}
	x.drop(id)
	x.all.grow(int(id) + 1)
	*x.all.at(id) = entry{Backend: b, held: true, claimed: claimed}
	o := x.owned(b.Service)
	at := len(o.ids)
	if at > 0 && x.order(o.ids[at-1], id) > 0 {
		at, _ = slices.BinarySearchFunc(o.ids, id, x.order)
	}
	o.ids = slices.Insert(o.ids, at, id)
	if !claimed {
		x.unclaimed++
		return
	}
	x.sockets.add(&x.all, id)
}

// owned is the list that a service id's entries are put into.
func (x *backends) owned(service uint32) *owned {
	if x.last != nil && x.last.service == service {
		return x.last
	}
	o := x.of[service]
	if o == nil {
		o = &owned{service: service}
		if x.last != nil {
			o.ids = make([]uint32, 0, len(x.last.ids)) // most have as many as the one before
		}
		x.of[service] = o
	}
	x.last = o
	return o
}

func (x *backends) order(a, b uint32) int {
	p, q := &x.all.at(a).Backend, &x.all.at(b).Backend
	return cmp.Or(p.Addr.Compare(q.Addr), cmp.Compare(p.Port, q.Port), cmp.Compare(a, b))
}

// drop forgets an index.
func (x *backends) drop(id uint32) {
	e := x.at(id)
	if e == nil {
		return
	}
	o := x.owned(e.Service)
	if at, ok := slices.BinarySearchFunc(o.ids, id, x.order); ok {
		o.ids = slices.Delete(o.ids, at, at+1)
	}
	if len(o.ids) == 0 {
		delete(x.of, e.Service)
		x.last = nil
	}
	delete(x.retiring, id)
	if e.claimed {
		x.sockets.remove(&x.all, id)
	} else {
		x.unclaimed--
	}
	*e = entry{}
}

// disclaim leaves an entry to its flows: its place is free for another one.
func (x *backends) disclaim(id uint32) {
	e := x.all.at(id)
	e.claimed = false
	x.unclaimed++
	x.sockets.remove(&x.all, id)
}

// draining tells whether any backend is on its way out, or of an earlier agent
// and not claimed yet: its flows may be on any address.
func (x *backends) draining() bool { return len(x.retiring)+x.unclaimed > 0 }
