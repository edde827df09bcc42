// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"slices"
	"sync"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// Services are compiled and tables drafted by several goroutines, as nothing
// changes meanwhile; one writes.

const (
	// draftsAtOnce bounds the tables that are made and not written yet.
	draftsAtOnce = 1024
	// splitAlone is how many tables or services are done before another goroutine
	// could help.
	splitAlone = 64
	// maxDesks bounds the goroutines: each holds four bytes for every backend.
	maxDesks = 4
)

// job is a table that shall be in the map.
type job struct {
	port  *port
	table *table
}

// draft is what a table shall be.
type draft struct {
	span  // base: of a kept one only
	slots []uint32
	kept  bool // it is in the map already
	err   error
}

// drafts makes the draft of each job.
func (t *Target) drafts(jobs []job) []draft {
	out := make([]draft, len(jobs))
	t.split(len(jobs), func(d *desk, n int) { out[n] = t.draft(d, &jobs[n]) })
	return out
}

// split does n things at the desks, each of which takes a run of them.
func (t *Target) split(n int, do func(d *desk, i int)) {
	share := max(splitAlone, (n+len(t.desks)-1)/len(t.desks))
	var wg sync.WaitGroup
	defer wg.Wait()
	for at := 0; at*share < n; at++ {
		work := func() {
			for i := at * share; i < min((at+1)*share, n); i++ {
				do(&t.desks[at], i)
			}
		}
		if n <= share {
			work()
			break
		}
		wg.Go(work)
	}
}

// draft is the present table if that is right, else the one that moves the
// fewest slots of it.
func (t *Target) draft(d *desk, j *job) draft {
	sp, known := t.kernel.tables[j.table.name]
	members := t.members(d, j)
	if known && slices.Equal(sp.members, members) {
		return draft{span: sp, kept: true}
	}
	if !known {
		sp = t.adoptTable(j.table.keys)
	}
	last, err := d.read(t.cfg.Maps, sp.base, sp.len)
	if err != nil {
		return draft{err: err}
	}
	if d.fits(last, members) || !known && d.isFirst(last, members, j.table) {
		sp.members, sp.sum = slices.Clone(members), sumOf(last)
		return draft{span: sp, kept: true}
	}
	slots := d.tableAfter(last, members, j.table)
	return draft{span: span{len: uint32(len(slots)), sum: sumOf(slots), members: slices.Clone(members)}, slots: slots}
}

// members are the backends of a table that have slots in it. They are valid
// until the desk's next table.
func (t *Target) members(d *desk, j *job) []member {
	g, tb := t.kernel.backends.group(j.port.id), j.table
	d.members = d.members[:0]
	for i := range tb.backends {
		b := &tb.backends[i]
		if b.Flags&bpf.BackendOpen == 0 {
			continue
		}
		id, _ := g.place(b.Addr)
		m := member{id: id, weight: uint16(b.Weight)}
		if tb.shares != nil {
			m.share = tb.shares[i]
		}
		d.members = append(d.members, m)
	}
	return d.members
}

// adoptTable finds the table an earlier agent wrote for the same keys; one
// without slots if there is none.
func (t *Target) adoptTable(keys []bpf.ServiceKey) span {
	size := uint64(t.cfg.Maps.Sizes().Slots)
	for _, key := range keys {
		have, ok := t.kernel.services[key]
		if ok && have.Len > 0 && uint64(have.Base)+uint64(have.Len) <= size {
			return span{base: have.Base, len: have.Len}
		}
	}
	return span{}
}
