// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/maglev"
)

// kernel is what the maps hold, as far as writes were accepted. It is changed
// only after the kernel said yes, so that a failed Apply can go on from it.
type kernel struct {
	services map[bpf.ServiceKey]bpf.Service
	allows   map[bpf.Allow]uint32 // the pass that wanted it last
	backends map[uint32]entry
	tables   map[tableName]span
	ids      map[portName]uint32 // counters of service ports
	names    map[uint32]portName // the reverse; ids nobody claimed yet are absent
	ranges   ranges
	pass     uint32 // one for every write
	drains   bool   // something was draining when the last write began

	nextID      uint32
	nextBackend uint32

	// What follows is made of the above by put and drop.
	byPlace   map[place]uint32   // the backend entry of a service id's address
	refs      map[uint32]int     // entries that refer to a service id
	addrs     map[netip.Addr]int // backend entries at an address
	retiring  map[uint32]bool    // backends on their way out
	unclaimed map[uint32]bool    // backends whose owner is not known
	leftovers map[leftover]uint32
	sockets   sockets
}

// place is one address of one service port.
type place struct {
	owner uint32 // service id
	addr  netip.Addr
}

// leftover is how an entry whose owner is not known is recognised.
type leftover struct {
	place
	port uint16
}

// entry is a backend in the map. Entries nobody wants drain until their flows
// are released.
type entry struct {
	bpf.Backend
	place             // zero: of an earlier agent, or replaced by one with another port
	release time.Time // zero: wanted
	pass    uint32    // that wanted it last
}

// service is the id that the entry refers to.
func (e *entry) service() uint32 {
	if e.owner != 0 {
		return e.owner
	}
	return e.Service
}

func (e *entry) leftover() leftover {
	return leftover{place{e.Service, e.Addr}, e.Port}
}

// span is a table in the map and the backends it was made of.
type span struct {
	base, len uint32
	slots     []uint32
	since     time.Time // zero: adopted
	members   []maglev.Backend
	ids       []uint32 // of members
	entries   bool     // see table
	pass      uint32   // that wanted it last
}

func newKernel() kernel {
	return kernel{
		services: map[bpf.ServiceKey]bpf.Service{},
		allows:   map[bpf.Allow]uint32{},
		backends: map[uint32]entry{},
		tables:   map[tableName]span{},
		ids:      map[portName]uint32{},
		names:    map[uint32]portName{},

		byPlace:   map[place]uint32{},
		refs:      map[uint32]int{},
		addrs:     map[netip.Addr]int{},
		retiring:  map[uint32]bool{},
		unclaimed: map[uint32]bool{},
		leftovers: map[leftover]uint32{},
		sockets:   newSockets(),
	}
}

// putBackend notes an entry and everything that is found by it.
func (k *kernel) putBackend(id uint32, e entry) {
	k.dropBackend(id)
	k.backends[id] = e
	k.refs[e.service()]++
	if e.Addr.IsValid() {
		k.addrs[e.Addr]++
	}
	if !e.release.IsZero() {
		k.retiring[id] = true
	}
	if e.owner == 0 {
		k.unclaimed[id] = true
		k.leftovers[e.leftover()] = id
		return
	}
	k.byPlace[e.place] = id
	if e.Addr.IsValid() {
		k.sockets.add(socket{e.Addr, e.Port, e.Proto}, e.owner)
	}
}

// dropBackend forgets an entry.
func (k *kernel) dropBackend(id uint32) {
	e, ok := k.backends[id]
	if !ok {
		return
	}
	delete(k.backends, id)
	k.unref(e.service())
	if e.Addr.IsValid() {
		if k.addrs[e.Addr]--; k.addrs[e.Addr] == 0 {
			delete(k.addrs, e.Addr)
		}
	}
	delete(k.retiring, id)
	if e.owner == 0 {
		delete(k.unclaimed, id)
		if k.leftovers[e.leftover()] == id {
			delete(k.leftovers, e.leftover())
		}
		return
	}
	if k.byPlace[e.place] == id {
		delete(k.byPlace, e.place)
	}
	if e.Addr.IsValid() {
		k.sockets.remove(socket{e.Addr, e.Port, e.Proto}, e.owner)
	}
}

func (k *kernel) putService(key bpf.ServiceKey, s bpf.Service) {
	k.dropService(key)
	k.services[key] = s
	k.refs[s.ID]++
}

func (k *kernel) dropService(key bpf.ServiceKey) {
	if s, ok := k.services[key]; ok {
		delete(k.services, key)
		k.unref(s.ID)
	}
}

func (k *kernel) unref(id uint32) {
	if k.refs[id]--; k.refs[id] == 0 {
		delete(k.refs, id)
	}
}

// draining tells whether any backend is on its way out, or of an earlier agent
// and not claimed yet: its flows may be on any address.
func (k *kernel) draining() bool { return len(k.retiring)+len(k.unclaimed) > 0 }

// needFlows tells whether the flows of a table need entries.
func (k *kernel) needFlows(sp *span, id tableID) bool { return sp.entries || k.sockets.by[id] > 0 }
