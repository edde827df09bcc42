// SPDX-License-Identifier: Apache-2.0

package dataplane

// paged is a list of up to millions. It grows by a page at a time: nothing is
// moved, and no half-sized copies are left to the garbage collector.
type paged[T any] struct {
	pages [][]T
	n     int
}

const pageLen = 1024

func (p *paged[T]) len() int { return p.n }

// at is valid for as long as the list is.
func (p *paged[T]) at(i uint32) *T { return &p.pages[i/pageLen][i%pageLen] }

// grow makes the list n long, unless it is longer.
func (p *paged[T]) grow(n int) {
	for n > pageLen*len(p.pages) {
		p.pages = append(p.pages, make([]T, pageLen))
	}
	p.n = max(p.n, n)
}

// add puts one at the end.
func (p *paged[T]) add(v T) {
	p.grow(p.n + 1)
	*p.at(uint32(p.n - 1)) = v
}

// each walks the list.
func (p *paged[T]) each(yield func(uint32, *T) bool) {
	for i := range uint32(p.n) {
		if !yield(i, p.at(i)) {
			return
		}
	}
}
