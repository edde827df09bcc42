// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"errors"
	"maps"
	"slices"
)

// Diff makes the world, whose content is have, equal to want: every missing or
// different entry is put first, in key order; only when all puts succeeded are
// the entries that want lacks deleted, in reverse key order. have is updated
// entry by entry, only after the callback accepted, so that it tells the truth
// whatever fails. All puts are tried; the errors are joined.
func Diff[K cmp.Ordered, V comparable](have, want map[K]V, put func(K, V) error, del func(K) error) error {
	var errs []error
	for _, k := range slices.Sorted(maps.Keys(want)) {
		v := want[k]
		if old, ok := have[k]; ok && old == v {
			continue
		}
		if err := put(k, v); err != nil {
			errs = append(errs, err)
			continue
		}
		have[k] = v
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	gone := slices.Sorted(maps.Keys(have))
	slices.Reverse(gone)
	for _, k := range gone {
		if _, ok := want[k]; ok {
			continue
		}
		if err := del(k); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(have, k)
	}
	return errors.Join(errs...)
}
