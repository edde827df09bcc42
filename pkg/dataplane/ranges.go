// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"slices"
)

// ranges hands out runs of table slots, first fit. Freed runs rest until the
// next round: a program may be reading the table it replaced.
type ranges struct {
	size    uint32
	free    []run // sorted, apart from each other
	resting []run
}

type run struct{ base, len uint32 }

func newRanges(size uint32) ranges { return ranges{size: size, free: []run{{0, size}}} }

// take removes a run from the free ones; what is taken already stays so.
func (r *ranges) take(base, n uint32) {
	if n == 0 {
		return
	}
	end := base + n
	out := make([]run, 0, len(r.free)+1)
	for _, f := range r.free {
		fend := f.base + f.len
		if fend <= base || f.base >= end {
			out = append(out, f)
			continue
		}
		if f.base < base {
			out = append(out, run{f.base, base - f.base})
		}
		if fend > end {
			out = append(out, run{end, fend - end})
		}
	}
	r.free = out
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
func (r *ranges) release(base, n uint32) {
	if n > 0 {
		r.resting = append(r.resting, run{base, n})
	}
}

// settle makes the resting runs free again.
func (r *ranges) settle() {
	if len(r.resting) == 0 {
		return
	}
	all := append(r.free, r.resting...)
	r.resting = nil
	slices.SortFunc(all, func(a, b run) int { return int(int64(a.base) - int64(b.base)) })
	r.free = all[:0]
	for _, f := range all {
		if n := len(r.free); n > 0 && r.free[n-1].base+r.free[n-1].len >= f.base {
			last := &r.free[n-1]
			last.len = max(last.base+last.len, f.base+f.len) - last.base
			continue
		}
		r.free = append(r.free, f)
	}
}
