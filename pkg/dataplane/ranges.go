// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// ranges hands out runs of table slots, first fit. Freed runs rest for a
// while: a program may be reading the table it replaced.
type ranges struct {
	size    uint32
	free    []run // sorted, apart from each other
	resting []rest
}

type run struct{ base, len uint32 }

type rest struct {
	run
	since time.Time
}

// restFor is many times what a packet takes.
const restFor = 100 * time.Millisecond

// newRanges has everything free but the runs that are taken.
func newRanges(size uint32, taken []run) ranges {
	slices.SortFunc(taken, func(a, b run) int { return cmp.Compare(a.base, b.base) })
	r := ranges{size: size}
	at := uint32(0)
	for _, x := range taken {
		if x.base > at {
			r.free = append(r.free, run{at, x.base - at})
		}
		at = max(at, x.base+x.len)
	}
	if at < size {
		r.free = append(r.free, run{at, size - at})
	}
	return r
}

// alloc finds n slots.
func (r *ranges) alloc(n uint32) (uint32, error) {
	for i, f := range r.free {
		if f.len < n {
			continue
		}
		if f.len == n {
			r.free = slices.Delete(r.free, i, i+1)
		} else {
			r.free[i] = run{f.base + n, f.len - n}
		}
		return f.base, nil
	}
	return 0, fmt.Errorf("no %d table slots in a row are free of %d", n, r.size)
}

// release lets a run rest.
func (r *ranges) release(base, n uint32, now time.Time) {
	if n > 0 {
		r.resting = append(r.resting, rest{run{base, n}, now})
	}
}

// settle makes the runs free that have rested.
func (r *ranges) settle(now time.Time) {
	var all []run
	r.resting = slices.DeleteFunc(r.resting, func(x rest) bool {
		over := now.Sub(x.since) >= restFor
		if over {
			all = append(all, x.run)
		}
		return over
	})
	if len(all) == 0 {
		return
	}
	all = append(all, r.free...)
	slices.SortFunc(all, func(a, b run) int { return cmp.Compare(a.base, b.base) })
	r.free = r.free[:0]
	for _, f := range all {
		if n := len(r.free); n > 0 && r.free[n-1].base+r.free[n-1].len >= f.base {
			last := &r.free[n-1]
			last.len = max(last.base+last.len, f.base+f.len) - last.base
			continue
		}
		r.free = append(r.free, f)
	}
}
