// SPDX-License-Identifier: Apache-2.0

package maglev

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
)

func equal(n int) []Backend {
	out := make([]Backend, n)
	for i := range out {
		out[i] = Backend{Key: fmt.Sprintf("10.1.%d.%d:8090", i/250, i%250), Weight: 1}
	}
	return out
}

func shares(table []uint32, n int) []int {
	out := make([]int, n)
	for _, i := range table {
		out[i]++
	}
	return out
}

func TestSizesArePrimes(t *testing.T) {
	for i, p := range primes {
		if !big.NewInt(int64(p)).ProbablyPrime(20) {
			t.Errorf("%d is no prime", p)
		}
		if i > 0 && p <= primes[i-1] {
			t.Errorf("%d does not follow %d", p, primes[i-1])
		}
	}
}

func TestEqualWeightsShareEqually(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 100, 1000} {
		b := equal(n)
		size := Size(b)
		if n > 1 && size < 100*n {
			t.Errorf("%d backends: table of %d", n, size)
		}
		for i, got := range shares(Table(b, size), n) {
			if want := size / n; got < want || got > want+1 {
				t.Errorf("%d backends: number %d has %d of %d slots", n, i, got, size)
			}
		}
	}
}

func TestSlotsFollowWeights(t *testing.T) {
	for _, weights := range [][]uint16{{1, 2, 1}, {1, 9}, {10, 90}, {3, 5, 7, 11}, {1, 100}, {65535, 65535}} {
		b := equal(len(weights))
		sum := 0
		for i := range b {
			b[i].Weight = weights[i]
			sum += int(weights[i])
		}
		size := Size(b)
		for i, got := range shares(Table(b, size), len(b)) {
			want := float64(size) * float64(weights[i]) / float64(sum)
			if float64(got) < want*0.97-1 || float64(got) > want*1.03+1 {
				t.Errorf("weights %v: number %d has %d of %d slots, want %.0f", weights, i, got, size, want)
			}
		}
	}
}

func TestEveryBackendHasASlot(t *testing.T) {
	b := equal(50)
	for i := range b {
		b[i].Weight = 65535
	}
	b[7].Weight = 1
	if got := shares(Table(b, Size(b)), len(b))[7]; got < 1 {
		t.Errorf("weight 1 among 65535s has %d slots", got)
	}
}

// Row 1 of issue "L4 ahead of every anchor": removing one of N moves few of the others' slots.
func TestRemovalDisturbsFew(t *testing.T) {
	for _, n := range []int{3, 10, 100} {
		b := equal(n)
		size := Size(b)
		before := Table(b, size)
		for gone := range min(n, 10) {
			rest := slices.Delete(slices.Clone(b), gone, gone+1)
			moved := 0
			for slot, i := range Table(rest, size) {
				if int(before[slot]) != gone && b[before[slot]].Key != rest[i].Key {
					moved++
				}
			}
			if moved*100 > 6*size {
				t.Errorf("removing 1 of %d moved %d of %d slots", n, moved, size)
			}
		}
	}
}

func TestTableIsStable(t *testing.T) {
	// A change of these values moves every flow of every cluster in an upgrade.
	got := fmt.Sprint(Table(equal(3), 101)[:12])
	const want = "[2 2 2 2 0 0 1 1 1 1 1 1]"
	if got != want {
		t.Errorf("table begins %s, was %s in earlier versions", got, want)
	}
}

func BenchmarkTable(b *testing.B) {
	backends := equal(10)
	size := Size(backends)
	for b.Loop() {
		Table(backends, size)
	}
}

// A backend that grows from a small share to all of its slots takes them from
// the others and moves nothing among them.
func TestSharesGrowWithoutMovingOthers(t *testing.T) {
	for _, n := range []int{2, 3, 10, 100} {
		for _, weight := range []uint16{1, 5} {
			b := equal(n)
			b[n/2].Weight = weight
			size := Size(b)
			whole := Table(b, size)
			final := shares(whole, n)[n/2]
			var before []uint32
			for _, share := range []uint8{10, 20, 30, 50, 90, 99, 0} {
				b[n/2].Share = share
				table := Table(b, size)
				if share == 0 && !slices.Equal(table, whole) {
					t.Errorf("%d backends: another table after the slow start", n)
				}
				want := final * int(share) / 100
				if share == 0 {
					want = final
				}
				if got := shares(table, n)[n/2]; got != want {
					t.Errorf("%d backends, %d %%: %d slots, wanted %d of %d", n, share, got, want, final)
				}
				for slot := range before {
					if table[slot] != before[slot] && table[slot] != uint32(n/2) {
						t.Fatalf("%d backends, %d %%: slot %d moved from %d to %d", n, share, slot, before[slot], table[slot])
					}
				}
				before = table
			}
		}
	}
}

// Shares count among others only: where all backends start slowly, none does.
func TestSharesOfAll(t *testing.T) {
	b := equal(3)
	want := Table(b, Size(b))
	for i := range b {
		b[i].Share = 10
	}
	if got := Table(b, Size(b)); !slices.Equal(got, want) {
		t.Error("another table than without shares")
	}
	b[0].Share = 0
	if got := shares(Table(b, Size(b)), 3); got[1] != got[0]/28 && (got[1] > 12 || got[1] < 9) || got[1]+got[2] > 25 {
		t.Errorf("two of three at 10 %%: %v", got)
	}
	one := equal(1)
	one[0].Share = 10
	if got := Table(one, 1); !slices.Equal(got, []uint32{0}) {
		t.Errorf("a single one: %v", got)
	}
}
