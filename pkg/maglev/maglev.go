// SPDX-License-Identifier: Apache-2.0

// Package maglev makes consistent-hash tables: a pure function from weighted
// backends to a table of their indices (Eisenbud et al., "Maglev: A Fast and
// Reliable Software Network Load Balancer", NSDI 2016, section 3.4). Equal
// input gives equal tables on every node and in every version.
package maglev

import (
	"math"
	"sort"
)

// Backend is one entry to place. Keys are unique; equal keys are equal
// preferences for slots, whatever the other backends.
type Backend struct {
	Key    string
	Weight uint16 // 1 … 65535
	// Share is how much of its slots it gets, in per cent, 1 … 99; 0: all. What
	// it does not get goes where it would without this backend. A larger share
	// takes slots from others and moves no other slot, so that a backend can
	// grow in steps and disturbs nobody more than it has to.
	Share uint8
}

// primes are table sizes, each near 1.2 times the one before.
var primes = []int{
	101, 127, 151, 181, 211, 251, 307, 367, 443, 521, 631, 757, 907, 1091, 1307, 1567, 1879, 2251, 2707, 3251, 3907,
	4691, 5639, 6761, 8117, 9739, 11689, 14029, 16831, 20201, 24239, 29101, 34919, 41903, 50287, 60343, 72421, 86923,
	104297, 125149, 150193, 180221, 216259, 259507, 311407, 373693, 448421, 538093, 645713, 774863, 929843, 1115831,
}

// slotsPerShare is how many slots the smallest share has: spread within about
// a hundredth (the paper's M ≥ 100 × N).
const slotsPerShare = 100

// Size is the length of a table for the backends: 1 for a single one, else a
// prime of at least a hundred slots for every smallest weight in the sum of
// weights. Weights that differ by more than the largest table can show are
// rounded; every backend has at least one slot.
func Size(backends []Backend) int {
	if len(backends) <= 1 {
		return len(backends)
	}
	sum, least := 0, math.MaxInt
	for _, b := range backends {
		sum += int(b.Weight)
		least = min(least, int(b.Weight))
	}
	shares := (sum + max(least, 1) - 1) / max(least, 1)
	// Unequal weights may ask for a lot; a large set always gets its own size.
	want := slotsPerShare * max(min(shares, 600), len(backends))
	i := sort.SearchInts(primes, want)
	return primes[min(i, len(primes)-1)]
}

// Table fills a table of the given size (a prime, or 1): slot → index into
// backends. It is nil if there is none. Every backend takes slots in the order
// of its own permutation of the table, in turns that follow the weights.
func Table(backends []Backend, size int) []uint32 {
	if len(backends) == 0 || size <= 0 {
		return nil
	}
	table := make([]uint32, size)
	whole, index := wholes(backends)
	if len(whole) == len(backends) || len(whole) == 0 {
		fill(table, backends, nil)
		return table
	}
	rank, others := make([]uint32, size), make([]uint32, size)
	fill(table, backends, rank)
	fill(others, whole, nil)
	yield(table, rank, backends, func(slot int) uint32 { return index[others[slot]] })
	return table
}

// wholes lists the backends that get all their slots, and their indices.
func wholes(backends []Backend) (whole []Backend, index []uint32) {
	for i, b := range backends {
		if b.Share == 0 {
			whole, index = append(whole, b), append(index, uint32(i))
		}
	}
	return whole, index
}

// yield gives the slots beyond a backend's share to others: the last ones that
// it took.
func yield(table, rank []uint32, backends []Backend, other func(slot int) uint32) {
	slots := make([]uint32, len(backends))
	for _, i := range table {
		slots[i]++
	}
	for slot, i := range table {
		share := uint32(backends[i].Share)
		if share > 0 && rank[slot] >= max(slots[i]*share/100, 1) {
			table[slot] = other(slot)
		}
	}
}

// fill writes the owner of every slot, and to rank, if it is not nil, how many
// slots the owner had before.
func fill(table []uint32, backends []Backend, rank []uint32) {
	if len(backends) == 1 {
		clear(table)
		for slot := range rank {
			rank[slot] = uint32(slot)
		}
		return
	}
	const free = math.MaxUint32
	for i := range table {
		table[i] = free
	}
	turns := make([]turn, len(backends))
	most := uint32(0)
	for i, b := range backends {
		turns[i] = newTurn(b, uint64(len(table)))
		most = max(most, uint32(b.Weight))
	}
	for i := range turns {
		turns[i].credit = most // the first round is everybody's
	}
	for left := len(table); ; {
		for i := range turns {
			t := &turns[i]
			if t.credit += uint32(backends[i].Weight); t.credit < most {
				continue
			}
			t.credit -= most
			slot := t.next()
			for table[slot] != free {
				slot = t.next()
			}
			table[slot] = uint32(i)
			if rank != nil {
				rank[slot] = t.taken
				t.taken++
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// turn walks a backend's permutation: offset, offset+skip, … modulo the size.
type turn struct {
	at, skip, size uint64
	credit, taken  uint32
}

func newTurn(b Backend, size uint64) turn {
	h := hash(b.Key)
	return turn{at: mix(h^0x9e3779b97f4a7c15) % size, skip: mix(h^0xd1b54a32d192ed03)%(size-1) + 1, size: size}
}

func (t *turn) next() uint64 {
	at := t.at
	if t.at += t.skip; t.at >= t.size {
		t.at -= t.size
	}
	return at
}

// hash is FNV-1a, 64 bits.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the finalizer of SplitMix64 (Steele et al., OOPSLA 2014).
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
