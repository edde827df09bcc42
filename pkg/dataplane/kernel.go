// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// kernel is what the maps hold, as far as writes were accepted. It is changed
// only after the kernel said yes, so that a failed Apply can go on from it.
type kernel struct {
	services map[bpf.ServiceKey]bpf.Service
	allows   map[bpf.Allow]uint32 // the pass that wanted it last
	backends backends
	tables   map[tableName]span
	ids      map[portName]uint32 // counters of service ports
	names    map[uint32]portName // the reverse; ids nobody claimed yet are absent
	keys     map[uint32]int      // services that refer to an id
	// halfway are services that follow entries, though some of their flows may
	// not have them yet (toFlows), with the pass that left them so.
	halfway map[bpf.ServiceKey]uint32
	ranges  ranges
	pass    uint32 // one for every write
	drains  bool   // something was draining when the last write began

	nextID uint32
}

// span is a table in the map and what it was made of. Its slots are in the map
// only: a hundred thousand tables are half a gigabyte.
type span struct {
	base, len uint32
	sum       uint64    // of the slots
	since     time.Time // zero: adopted
	members   []member
	entries   bool   // see table
	pass      uint32 // that wanted it last
}

// member is a backend that has slots in a table.
type member struct {
	id     uint32
	weight uint16
	share  uint8
}

func newKernel() kernel {
	return kernel{
		services: map[bpf.ServiceKey]bpf.Service{},
		allows:   map[bpf.Allow]uint32{},
		backends: newBackends(),
		tables:   map[tableName]span{},
		ids:      map[portName]uint32{},
		names:    map[uint32]portName{},
		keys:     map[uint32]int{},
		halfway:  map[bpf.ServiceKey]uint32{},
	}
}

// expect makes room for n services, if there are none yet.
func (k *kernel) expect(n int) {
	if len(k.ids)+len(k.names)+len(k.tables) == 0 {
		k.ids, k.names, k.tables = make(map[portName]uint32, n), make(map[uint32]portName, n), make(map[tableName]span, n)
	}
}

func (k *kernel) putService(key bpf.ServiceKey, s bpf.Service) {
	have, there := k.services[key]
	k.services[key] = s
	if there && have.ID == s.ID {
		return
	}
	if k.keys[s.ID]++; there {
		k.unref(have.ID)
	}
}

func (k *kernel) dropService(key bpf.ServiceKey) {
	if s, ok := k.services[key]; ok {
		delete(k.services, key)
		delete(k.halfway, key)
		k.unref(s.ID)
	}
}

func (k *kernel) unref(id uint32) {
	if k.keys[id]--; k.keys[id] == 0 {
		delete(k.keys, id)
	}
}

// refers tells whether any entry refers to a service id.
func (k *kernel) refers(id uint32) bool { return k.keys[id] > 0 || k.backends.of[id] != nil }

// needFlows tells whether the flows of a table need entries.
func (k *kernel) needFlows(sp *span, id tableID) bool {
	return sp.entries || k.backends.sockets.by[id] > 0
}
