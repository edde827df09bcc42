// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/maglev"
)

// desk is where tables are looked at, one after the other: what it holds is
// used again for the next one.
type desk struct {
	slots   []uint32 // as they are in the map
	members []member
	placed  []maglev.Backend
	index   []uint32 // by backend: 1 + its index among the members, 0: it is none
	held    []int
}

// read is a table in the map. It is valid until the desk's next table.
func (d *desk) read(maps Maps, base, n uint32) ([]uint32, error) {
	d.slots = slices.Grow(d.slots[:0], int(n))[:n]
	return d.slots, maps.Slots(base, d.slots)
}

// sumOf tells tables apart: any change of one slot changes it, and as good as
// every other change does. It takes two slots at a time.
func sumOf(slots []uint32) uint64 {
	sum, at := uint64(len(slots)), uint64(0)
	for ; len(slots) >= 2; slots = slots[2:] {
		at += 0xd1b54a32d192ed03
		z := ((uint64(slots[0])<<32 | uint64(slots[1])) + at) * 0x9e3779b97f4a7c15
		sum += z ^ z>>29
	}
	for _, id := range slots {
		sum += (uint64(id) + at) * 0x9e3779b97f4a7c15
	}
	return sum
}

// place makes the members known to the index, and what maglev asks for out of
// them. forget must follow.
func (d *desk) place(members []member) {
	d.placed, d.held = d.placed[:0], d.held[:0]
	for i, m := range members {
		if n := int(m.id) + 1 - len(d.index); n > 0 {
			d.index = append(d.index, make([]uint32, max(n, len(d.index)))...)
		}
		d.index[m.id] = uint32(i) + 1
		d.placed = append(d.placed, maglev.Backend{Weight: m.weight, Share: m.share})
		d.held = append(d.held, 0)
	}
}

func (d *desk) forget(members []member) {
	for _, m := range members {
		d.index[m.id] = 0
	}
}

// owner is the index of a slot's owner among the members, or maglev.Nobody.
func (d *desk) owner(id uint32) uint32 {
	if int64(id) >= int64(len(d.index)) {
		return maglev.Nobody
	}
	return d.index[id] - 1
}

// fits tells whether a table is right for its members as it stands: what
// tableAfter would make of it is the same.
func (d *desk) fits(last []uint32, members []member) bool {
	if len(last) == 0 || len(members) == 0 {
		return len(last) == len(members)
	}
	d.place(members)
	defer d.forget(members)
	return maglev.Fits(len(last), d.placed) && d.tally(last, members) && maglev.Even(d.held, d.placed)
}

// tally counts the slots that each placed member holds; false: some are nobody's.
// A restart looks at every slot there is: for its time the index holds counts by
// backend, and whose a slot is, is asked once for all slots of a backend.
func (d *desk) tally(slots []uint32, members []member) bool {
	d.forget(members)
	count, known := d.index, len(slots)
	for i, id := range slots {
		if int64(id) >= int64(len(count)) {
			known = i // no member has such an id
			break
		}
		count[id]++
	}
	total := 0
	for i, m := range members {
		d.held[i] = int(count[m.id])
		total += d.held[i]
	}
	d.forget(members)
	if total == len(slots) {
		return true
	}
	for _, id := range slots[:known] {
		count[id] = 0 // of those that are no members
	}
	return false
}

// tableAfter is the table of the members that moves the fewest slots of the
// last one. tb is where they come from.
func (d *desk) tableAfter(last []uint32, members []member, tb *table) []uint32 {
	if len(members) == 0 {
		return nil
	}
	d.place(members)
	defer d.forget(members)
	if !maglev.Fits(len(last), d.placed) {
		return d.first(members, tb)
	}
	owners := make([]uint32, len(last))
	for slot, id := range last {
		owners[slot] = d.owner(id)
	}
	return named(maglev.Next(owners, d.placed), members)
}

// isFirst tells whether a table is the one of members that had none before.
// Where weights differ its shares are not as even as those of the tables after.
func (d *desk) isFirst(slots []uint32, members []member, tb *table) bool {
	d.place(members)
	defer d.forget(members)
	return len(slots) > 0 && len(slots) == maglev.Size(d.placed) && slices.Equal(slots, d.first(members, tb))
}

// first is the table of placed members that had none before.
func (d *desk) first(members []member, tb *table) []uint32 {
	d.name(tb)
	return named(maglev.Table(d.placed, maglev.Size(d.placed)), members)
}

// named puts ids in place of the members' indices.
func named(slots []uint32, members []member) []uint32 {
	for i, member := range slots {
		slots[i] = members[member].id
	}
	return slots
}

// name gives the members the keys that a table is made by where there was none.
func (d *desk) name(tb *table) {
	i := 0
	for j := range tb.backends {
		if b := &tb.backends[j]; b.Flags&bpf.BackendOpen != 0 {
			d.placed[i].Key = netip.AddrPortFrom(b.Addr, b.Port).String()
			i++
		}
	}
}
