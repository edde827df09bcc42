// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// putAllows adds what the allow lists of the state lack in the map, before a
// service entry asks for it, and returns the whole of them.
func (t *Target) putAllows(want *desired) (map[bpf.Allow]bool, error) {
	all := map[bpf.Allow]bool{}
	var errs []error
	for owner, r := range want.rules {
		if len(r.allow) == 0 {
			continue
		}
		id, err := t.serviceID(owner)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, source := range r.allow {
			all[bpf.Allow{Service: id, Source: source.Masked()}] = true
		}
	}
	for a := range all {
		if t.kernel.allows[a] {
			continue
		}
		if err := t.cfg.Maps.PutAllow(a); err != nil {
			errs = append(errs, err)
			continue
		}
		t.kernel.allows[a] = true
	}
	return all, errors.Join(errs...)
}

// deleteAllows removes what no list holds any longer.
func (t *Target) deleteAllows(all map[bpf.Allow]bool) error {
	var errs []error
	for a := range t.kernel.allows {
		if all[a] {
			continue
		}
		if err := t.cfg.Maps.DeleteAllow(a); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(t.kernel.allows, a)
	}
	return errors.Join(errs...)
}
