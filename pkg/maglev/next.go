// SPDX-License-Identifier: Apache-2.0

package maglev

import (
	"math"
	"slices"
)

// Nobody is the owner of a slot whose owner is gone.
const Nobody = math.MaxUint32

// Next makes a table of one that was in force: prev[slot] is an index into
// backends, or Nobody. Every backend has as many slots as its weight and share
// ask for, to one slot, and no slot changes its owner without need: those of
// backends that are gone go to the rest, and a new one takes from each what it has too
// much. (A Maglev table made anew moves other backends' slots as well: 1.7 % of
// them on average where its size stays, nearly all where it does not.)
// It is a pure function of both arguments; nil if there are no backends.
func Next(prev []uint32, backends []Backend) []uint32 {
	if len(backends) == 0 || len(prev) == 0 {
		return nil
	}
	held := make([]int, len(backends))
	for _, owner := range prev {
		if owner != Nobody {
			held[owner]++
		}
	}
	quota := quotas(backends, len(prev), held)
	clear(held)
	table := make([]uint32, len(prev))
	var free []int
	for slot, owner := range prev {
		if owner == Nobody || held[owner] == quota[owner] {
			free = append(free, slot)
			continue
		}
		table[slot] = owner
		held[owner]++
	}
	at := 0
	for _, slot := range free {
		for held[at] == quota[at] {
			at = (at + 1) % len(backends)
		}
		table[slot] = uint32(at)
		held[at]++
		at = (at + 1) % len(backends)
	}
	return table
}

// Even tells whether Next leaves a table as it is in which every slot has an
// owner and each backend holds that many.
func Even(held []int, backends []Backend) bool {
	size := 0
	for _, n := range held {
		size += n
	}
	return size > 0 && slices.Equal(held, quotas(backends, size, held))
}

// quotas shares size slots out by weight; they add up to size. What is left
// over by rounding stays with backends that have it already.
func quotas(backends []Backend, size int, held []int) []int {
	sum := uint64(0)
	for _, b := range backends {
		sum += b.portion()
	}
	quota, left := make([]int, len(backends)), size
	for i, b := range backends {
		quota[i] = int(uint64(size) * b.portion() / sum)
		left -= quota[i]
	}
	more := make([]bool, len(backends))
	for _, anybody := range []bool{false, true} {
		for i := range backends {
			if left > 0 && !more[i] && (anybody || held[i] > quota[i]) {
				quota[i]++
				more[i] = true
				left--
			}
		}
	}
	return atLeastOne(quota)
}

// atLeastOne gives every backend a slot, from those that have the most.
func atLeastOne(quota []int) []int {
	most := 0
	for i := range quota {
		if quota[i] > 0 {
			continue
		}
		for j := range quota {
			if quota[j] > quota[most] {
				most = j
			}
		}
		if quota[most] > 1 {
			quota[most]--
			quota[i]++
		}
	}
	return quota
}

// portion is the weight, and how much of it the backend gets.
func (b Backend) portion() uint64 {
	share := uint64(b.Share)
	if share == 0 {
		share = 100
	}
	return max(uint64(b.Weight), 1) * share
}

// Fits tells whether a table of this size is neither too coarse for the
// backends nor much larger than they need.
func Fits(size int, backends []Backend) bool {
	want := Size(backends)
	return size >= want && size <= 16*want
}
