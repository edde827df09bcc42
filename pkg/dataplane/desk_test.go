// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/maglev"
)

// A table fits if it is even and every slot has an owner among the members,
// whatever was looked at on the same desk before.
func TestTablesFit(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	var d desk
	fits, unfit := 0, 0
	for step := range 5000 {
		var members []member
		for _, id := range r.Perm(30)[:1+r.IntN(6)] {
			members = append(members, member{id: uint32(id * 7), weight: uint16(1 + r.IntN(3))})
		}
		d.place(members)
		slots := named(maglev.Table(d.placed, maglev.Size(d.placed)), members)
		d.forget(members)
		slots = d.tableAfter(slots, members, nil)
		for range r.IntN(3) { // somebody else's slots, and ids that nobody has
			slots[r.IntN(len(slots))] = []uint32{members[0].id, uint32(r.IntN(300)), 1 << 31}[r.IntN(3)]
		}
		want := evenByCounting(slots, members)
		if got := d.fits(slots, members); got != want {
			t.Fatalf("step %d: fits is %t for members %v and slots %v", step, got, members, slots)
		}
		if i := slices.IndexFunc(d.index, func(n uint32) bool { return n != 0 }); i >= 0 {
			t.Fatalf("step %d: the desk still knows backend %d", step, i)
		}
		if want {
			fits++
		} else {
			unfit++
		}
	}
	if fits < 1000 || unfit < 1000 {
		t.Errorf("%d tables fitted and %d did not: that shows little", fits, unfit)
	}
}

// evenByCounting is fits without an index, for tables of the right size.
func evenByCounting(slots []uint32, members []member) bool {
	held, placed := make([]int, len(members)), make([]maglev.Backend, len(members))
	for i, m := range members {
		placed[i] = maglev.Backend{Weight: m.weight, Share: m.share}
	}
	for _, id := range slots {
		i := slices.IndexFunc(members, func(m member) bool { return m.id == id })
		if i < 0 {
			return false
		}
		held[i]++
	}
	return maglev.Even(held, placed)
}

// One slot changed, or two exchanged, is another sum.
func TestSumsTellTablesApart(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for _, n := range []int{1, 2, 101, 1091} {
		slots := make([]uint32, n)
		for i := range slots {
			slots[i] = uint32(r.IntN(4))
		}
		sums := map[uint64]string{sumOf(slots): "as it was"}
		note := func(what string) {
			sum := sumOf(slots)
			if as, taken := sums[sum]; taken {
				t.Fatalf("%d slots: %s has the sum of %s", n, what, as)
			}
			sums[sum] = what
		}
		for i := range slots {
			slots[i] += 5
			note("one changed")
			slots[i] -= 5
			if j := i - i%2 + 2; j < n && slots[i] != slots[j] {
				slots[i], slots[j] = slots[j], slots[i]
				note("two exchanged")
				slots[i], slots[j] = slots[j], slots[i]
			}
		}
	}
}
