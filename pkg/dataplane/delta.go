// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"iter"
	"net/netip"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// What a delta may have to remove is, in a full one, all that the maps hold;
// else what the changed services had. Each of these lists candidates: the
// caller keeps those that are wanted.

// eachKey lists service keys.
func (d *delta) eachKey(k *kernel, do func(bpf.ServiceKey)) {
	if d.full {
		for key := range k.services {
			do(key)
		}
		return
	}
	for _, u := range d.was {
		for _, key := range u.markers {
			do(key)
		}
	}
	for p := range eachPort(d.was) {
		for _, tb := range p.tables {
			for _, key := range tb.keys {
				do(key)
			}
		}
	}
}

// eachTable lists tables, those of the state among them.
func (d *delta) eachTable(k *kernel, do func(tableName)) {
	if d.full {
		for name := range k.tables {
			do(name)
		}
		return
	}
	for _, units := range [][]unit{d.was, d.fresh} {
		for p := range eachPort(units) {
			for _, tb := range p.tables {
				do(tb.name)
			}
		}
	}
}

// candidates lists backend entries.
func (d *delta) candidates(k *kernel) (ids []uint32) {
	if d.full {
		ids = make([]uint32, 0, k.backends.all.len())
		for id := range k.backends.each {
			ids = append(ids, id)
		}
		return ids
	}
	for p := range eachPort(d.was) {
		g := k.backends.group(k.ids[p.owner])
		for _, tb := range p.tables {
			for i := range tb.backends {
				if id, ok := g.place(tb.backends[i].Addr); ok {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids
}

// addrs lists every address that the delta's services are reached at or reach.
func (d *delta) addrs() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for _, u := range d.fresh {
			for _, key := range u.markers {
				if !yield(key.VIP) {
					return
				}
			}
		}
		for p := range eachPort(d.fresh) {
			for _, tb := range p.tables {
				for _, key := range tb.keys {
					if !yield(key.VIP) {
						return
					}
				}
				for i := range tb.backends {
					if !yield(tb.backends[i].Addr) {
						return
					}
				}
			}
		}
	}
}
