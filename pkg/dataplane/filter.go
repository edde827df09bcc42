// SPDX-License-Identifier: Apache-2.0

package dataplane

import "net/netip"

// addFilter lets packets of every wanted address in, before anything else is
// written.
func (t *Target) addFilter(want *desired) error {
	return t.cfg.Maps.AddFilter(t.addrs(want))
}

// trimFilter forgets addresses that are gone. While a backend drains they may
// still have flows: then it waits for the sweep that frees the last one.
func (t *Target) trimFilter() error {
	for _, e := range t.kernel.backends {
		if !e.release.IsZero() {
			t.filterTrim = true
			return nil
		}
	}
	if !t.filterTrim {
		return nil
	}
	if err := t.cfg.Maps.SetFilter(t.addrs(nil)); err != nil {
		return err
	}
	t.filterTrim = false
	return nil
}

// addrs lists every address in the maps and in want, once.
func (t *Target) addrs(want *desired) []netip.Addr {
	seen := map[netip.Addr]bool{}
	for key := range t.kernel.services {
		seen[key.VIP] = true
	}
	for _, e := range t.kernel.backends {
		if e.Addr.IsValid() {
			seen[e.Addr] = true
		}
	}
	if want != nil {
		for key := range want.services {
			seen[key.VIP] = true
		}
		for _, b := range want.backends {
			seen[b.Addr] = true
		}
	}
	out := make([]netip.Addr, 0, len(seen))
	for a := range seen {
		out = append(out, a)
	}
	return out
}
