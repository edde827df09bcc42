// SPDX-License-Identifier: Apache-2.0

package maglev_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/maglev"
)

func replicas(n int) (bs []maglev.Backend) {
	for i := range n {
		bs = append(bs, maglev.Backend{Key: fmt.Sprintf("10.1.%d.%d:8080", i/200, i%200), Weight: 1})
	}
	return bs
}

// change makes the next table and counts the slots whose owner stays a backend
// but is another one now.
func change(t *testing.T, table []uint32, before, after []maglev.Backend) (next []uint32, moved, others int) {
	t.Helper()
	index := map[string]uint32{}
	for i, b := range after {
		index[b.Key] = uint32(i)
	}
	prev := make([]uint32, len(table))
	for slot, owner := range table {
		i, stays := index[before[owner].Key]
		if !stays {
			i = maglev.Nobody
		}
		prev[slot] = i
	}
	next = maglev.Next(prev, after)
	for slot := range next {
		if prev[slot] != maglev.Nobody {
			others++
			if next[slot] != prev[slot] {
				moved++
			}
		}
	}
	return next, moved, others
}

// Issue "L4 ahead of every anchor", 1: removing one of up to 100 backends moves
// at most 1 % of the other flows' slots. Here it moves none.
func TestRemovingOneMovesNoOther(t *testing.T) {
	for n := 2; n <= 100; n++ {
		all := replicas(n)
		table := maglev.Table(all, maglev.Size(all))
		for _, gone := range []int{0, n / 2, n - 1} {
			rest := append(append([]maglev.Backend{}, all[:gone]...), all[gone+1:]...)
			next, moved, others := change(t, table, all, rest)
			if moved > others/100 {
				t.Fatalf("%d backends without number %d: %d of %d other slots moved", n, gone, moved, others)
			}
			even(t, next, rest)
		}
	}
}

// A new backend takes its share and moves nothing else.
func TestAddingOneMovesItsShare(t *testing.T) {
	for n := 2; n <= 100; n++ {
		all := replicas(n)
		size := maglev.Size(all)
		table := maglev.Table(all[:n-1], size)
		if n == 2 {
			table = make([]uint32, size)
		}
		next, moved, _ := change(t, table, all[:n-1], all)
		even(t, next, all)
		if most := size/n + n; moved > most {
			t.Fatalf("the %dth backend moved %d slots of %d, its share is %d", n, moved, size, size/n)
		}
	}
}

// even wants every backend's slots to be what its weight asks for, to one.
func even(t *testing.T, table []uint32, backends []maglev.Backend) {
	t.Helper()
	sum, got := 0.0, make([]float64, len(backends))
	for i, b := range backends {
		share := float64(b.Share)
		if share == 0 {
			share = 100
		}
		got[i] = float64(b.Weight) * share
		sum += got[i]
	}
	for i := range got {
		got[i] *= -float64(len(table)) / sum
	}
	for _, owner := range table {
		got[owner]++
	}
	for i, d := range got {
		if d < -1 || d > 1 {
			t.Fatalf("%d slots, %d backends: number %d is %.1f slots from its share", len(table), len(backends), i, d)
		}
	}
}

// Any sequence of changes ends in an even table.
func TestManyChangesStayEven(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	pool := replicas(40)
	before := append([]maglev.Backend{}, pool[:10]...)
	table := maglev.Table(before, 4691)
	for range 300 {
		var after []maglev.Backend
		for _, b := range pool {
			if r.IntN(3) > 0 {
				b.Weight = uint16(1 + r.IntN(3))
				b.Share = uint8([]int{0, 0, 0, 10, 70}[r.IntN(5)])
				after = append(after, b)
			}
		}
		if len(after) == 0 {
			continue
		}
		table, _, _ = change(t, table, before, after)
		even(t, table, after)
		before = after
	}
	if maglev.Next(nil, pool) != nil || maglev.Next(table, nil) != nil {
		t.Error("a table of nothing")
	}
}

func BenchmarkNext(b *testing.B) {
	all := replicas(100)
	table := maglev.Table(all, maglev.Size(all))
	for b.Loop() {
		maglev.Next(table, all)
	}
}

// Even tells exactly which tables Next leaves as they are.
func TestEvenIsWhatNextKeeps(t *testing.T) {
	r, evens := rand.New(rand.NewPCG(5, 5)), 0
	for range 2000 {
		backends := replicas(1 + r.IntN(8))
		for i := range backends {
			backends[i].Weight, backends[i].Share = uint16(1+r.IntN(3)), uint8(r.IntN(2)*r.IntN(100))
		}
		table := maglev.Table(backends, maglev.Size(backends))
		for range r.IntN(3) {
			table = maglev.Next(table, backends)
		}
		for range r.IntN(2) {
			table[r.IntN(len(table))] = uint32(r.IntN(len(backends)))
		}
		held := make([]int, len(backends))
		for _, owner := range table {
			held[owner]++
		}
		kept := slices.Equal(table, maglev.Next(table, backends))
		if got := maglev.Even(held, backends); got != kept {
			t.Fatalf("%v with %v slots: Even %t, kept %t", backends, held, got, kept)
		}
		if kept {
			evens++
		}
	}
	if evens < 200 || evens > 1800 {
		t.Errorf("%d of 2000 tables were even: the test does not look at both kinds", evens)
	}
}
