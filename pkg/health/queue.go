// SPDX-License-Identifier: Apache-2.0

package health

import "container/heap"

// notQueued is the place of a check that waits for nothing.
const notQueued = -1

// queue holds the checks that wait, the next one first.
type queue []*check

func (q *queue) add(k *check) { heap.Push(q, k) }

func (q *queue) take() *check { return heap.Pop(q).(*check) }

func (q *queue) remove(k *check) {
	if k.place != notQueued {
		heap.Remove(q, k.place)
	}
}

// Len is part of heap.Interface, as are Less, Swap, Push and Pop.
func (q queue) Len() int { return len(q) }

// Less puts the earlier check first.
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

// Swap exchanges two checks.
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push appends a check.
func (q *queue) Push(x any) {
	k := x.(*check)
	k.place = len(*q)
	*q = append(*q, k)
}

// Pop takes the last check.
func (q *queue) Pop() any {
	old := *q
	k := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	k.place = notQueued
	return k
}
