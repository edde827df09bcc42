// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
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
		for id := range k.backends {
			ids = append(ids, id)
		}
		return ids
	}
	for p := range eachPort(d.was) {
		owner := k.ids[p.owner]
		for _, tb := range p.tables {
			for _, b := range tb.backends {
				if id, ok := k.byPlace[place{owner, b.Addr}]; ok {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids
}

// addrs lists every address that the delta's services are reached at or reach.
func (d *delta) addrs() (addrs []netip.Addr) {
	for _, u := range d.fresh {
		for _, key := range u.markers {
			addrs = append(addrs, key.VIP)
		}
	}
	for p := range eachPort(d.fresh) {
		for _, tb := range p.tables {
			for _, key := range tb.keys {
				addrs = append(addrs, key.VIP)
			}
			for _, b := range tb.backends {
				addrs = append(addrs, b.Addr)
			}
		}
	}
	return addrs
}
