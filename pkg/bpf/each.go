// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"

	"github.com/cilium/ebpf"
)

// batch is how many entries are read at once.
const batch = 4096

// each calls yield for every entry of a map until it returns false. What it is
// given is overwritten by the next entries. Entries that come or go meanwhile
// may be missed or seen twice. K and V are laid out as in the kernel.
func each[K, V any](m *ebpf.Map, yield func(*K, *V) bool) error {
	keys, vals := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, vals, nil)
		if errors.Is(err, ebpf.ErrNotSupported) { // of tries, before Linux 5.13
			return eachByKey(m, yield)
		}
		for i := range n {
			if !yield(&keys[i], &vals[i]) {
				return nil
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil // the end
		}
		if err != nil {
			return err
		}
	}
}

// eachByKey is each with two system calls for every entry.
func eachByKey[K, V any](m *ebpf.Map, yield func(*K, *V) bool) error {
	var (
		key K
		val V
	)
	it := m.Iterate()
	for it.Next(&key, &val) {
		if !yield(&key, &val) {
			return nil
		}
	}
	return it.Err()
}
