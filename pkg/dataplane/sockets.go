// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"hash/maphash"
	"math/bits"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// socket is what a replica answers on.
type socket struct {
	addr  [16]byte
	port  uint16
	proto uint8
	v6    bool
}

func socketOf(b *bpf.Backend) socket {
	return socket{addr: b.Addr.As16(), port: b.Port, proto: b.Proto, v6: b.Addr.Is6()}
}

// tableID names a table as flow entries do.
type tableID struct {
	service uint32
	v6      bool
}

// sockets knows which tables stand before the same socket as others. Where
// several do, only a flow entry tells which of them a reply belongs to. It is a
// hash table of claimed entries, chained by their indices: a Go map of a million
// sockets takes three times as long to fill.
type sockets struct {
	seed  maphash.Seed
	heads []uint32 // by hash: 1 + an entry's index
	next  []uint32 // by index: 1 + that of the next entry with the same hash
	n     int
	by    map[tableID]int  // a table's shared sockets
	begun map[tableID]bool // tables that began to share
}

func newSockets() sockets {
	return sockets{seed: maphash.MakeSeed(), by: map[tableID]int{}, begun: map[tableID]bool{}}
}

// expect makes room for n entries.
func (x *sockets) expect(all *paged[entry], n int) {
	if n <= len(x.heads) {
		return
	}
	old := x.heads
	x.heads = make([]uint32, 1<<bits.Len(2*uint(n))) // most chains have one entry
	for _, head := range old {
		for head != 0 {
			id := head - 1
			head = x.next[id]
			x.link(all, id)
		}
	}
}

func (x *sockets) head(s socket) *uint32 {
	return &x.heads[maphash.Comparable(x.seed, s)&uint64(len(x.heads)-1)]
}

func (x *sockets) link(all *paged[entry], id uint32) {
	head := x.head(socketOf(&all.at(id).Backend))
	x.next[id], *head = *head, id+1
}

// others finds an entry with the same socket; n is 0, 1, or 2 for several.
func (x *sockets) others(all *paged[entry], s socket) (id uint32, n int) {
	for at := *x.head(s); at != 0 && n < 2; at = x.next[at-1] {
		if socketOf(&all.at(at-1).Backend) == s {
			id, n = at-1, n+1
		}
	}
	return id, n
}

// add notes the entry of an index.
func (x *sockets) add(all *paged[entry], id uint32) {
	x.n++
	x.expect(all, x.n)
	if n := all.len() - len(x.next); n > 0 {
		x.next = append(x.next, make([]uint32, n)...)
	}
	s := socketOf(&all.at(id).Backend)
	first, n := x.others(all, s)
	x.link(all, id)
	begin := func(id uint32) {
		table := tableID{all.at(id).Service, s.v6}
		if x.by[table]++; x.by[table] == 1 {
			x.begun[table] = true
		}
	}
	if n == 1 {
		begin(first)
	}
	if n > 0 {
		begin(id)
	}
}

// remove forgets the entry of an index.
func (x *sockets) remove(all *paged[entry], id uint32) {
	s := socketOf(&all.at(id).Backend)
	at := x.head(s)
	for *at != id+1 {
		at = &x.next[*at-1]
	}
	*at = x.next[id]
	x.n--
	end := func(id uint32) {
		table := tableID{all.at(id).Service, s.v6}
		if x.by[table]--; x.by[table] == 0 {
			delete(x.by, table)
		}
	}
	last, n := x.others(all, s)
	if n > 0 {
		end(id)
	}
	if n == 1 {
		end(last)
	}
}
