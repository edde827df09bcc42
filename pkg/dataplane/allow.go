// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// putAllows adds what the allow lists of the delta lack in the map, before a
// service entry asks for it.
func (t *Target) putAllows(d *delta) error {
	k := &t.kernel
	var errs []error
	for p := range eachPort(d.fresh) {
		if len(p.rules.allow) == 0 || len(p.tables) == 0 {
			continue
		}
		id, err := t.serviceID(p)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, source := range p.rules.allow {
			a := bpf.Allow{Service: id, Source: source.Masked()}
			if _, there := k.allows[a]; !there {
				if err := t.cfg.Maps.PutAllow(a); err != nil {
					errs = append(errs, err)
					continue
				}
			}
			k.allows[a] = k.pass
		}
	}
	return errors.Join(errs...)
}

// deleteAllows removes what no list holds any longer.
func (t *Target) deleteAllows(d *delta) error {
	k := &t.kernel
	var errs []error
	remove := func(a bpf.Allow) {
		pass, there := k.allows[a]
		if !there || pass == k.pass {
			return
		}
		if err := t.cfg.Maps.DeleteAllow(a); err != nil {
			errs = append(errs, err)
			return
		}
		delete(k.allows, a)
	}
	if d.full {
		for a := range k.allows {
			remove(a)
		}
		return errors.Join(errs...)
	}
	for p := range eachPort(d.was) {
		for _, source := range p.rules.allow {
			remove(bpf.Allow{Service: k.ids[p.owner], Source: source.Masked()})
		}
	}
	return errors.Join(errs...)
}
