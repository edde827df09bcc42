// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// socket is what a replica answers on. It holds no pointer: there may be a million.
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

// sockets knows which service ports stand before which socket. Where there are
// several, only a flow entry tells which of them a reply belongs to.
type sockets struct {
	only   map[socket]uint32   // the one service id
	shared map[socket][]uint32 // or all of them
	by     map[tableID]int     // a table's shared sockets
	begun  map[tableID]bool    // tables that began to share
}

func newSockets() sockets {
	return sockets{only: map[socket]uint32{}, shared: map[socket][]uint32{}, by: map[tableID]int{}, begun: map[tableID]bool{}}
}

// expect makes room for n sockets more, if there are none yet.
func (x *sockets) expect(n int) {
	if len(x.only) == 0 {
		x.only = make(map[socket]uint32, n)
	}
}

func (x *sockets) add(s socket, id uint32) {
	begin := func(id uint32) {
		table := tableID{id, s.v6}
		if x.by[table]++; x.by[table] == 1 {
			x.begun[table] = true
		}
	}
	if ids, ok := x.shared[s]; ok {
		x.shared[s] = append(ids, id)
		begin(id)
		return
	}
	if first, ok := x.only[s]; ok {
		delete(x.only, s)
		x.shared[s] = []uint32{first, id}
		begin(first)
		begin(id)
		return
	}
	x.only[s] = id
}

func (x *sockets) remove(s socket, id uint32) {
	end := func(id uint32) {
		table := tableID{id, s.v6}
		if x.by[table]--; x.by[table] == 0 {
			delete(x.by, table)
		}
	}
	ids, ok := x.shared[s]
	if !ok {
		delete(x.only, s)
		return
	}
	at := slices.Index(ids, id)
	if at < 0 {
		return
	}
	end(id)
	ids = slices.Delete(ids, at, at+1)
	if len(ids) > 1 {
		x.shared[s] = ids
		return
	}
	end(ids[0])
	delete(x.shared, s)
	x.only[s] = ids[0]
}
