// SPDX-License-Identifier: Apache-2.0

package dataplane

import "net/netip"

// trimFilter forgets addresses that are gone. While a backend drains they may
// still have flows: then it waits for the sweep that frees the last one.
func (t *Target) trimFilter() error {
	k := &t.kernel
	if len(k.backends.retiring) > 0 || !t.filterTrim {
		return nil
	}
	if err := t.cfg.Maps.SetFilter(k.addrs); err != nil {
		return err
	}
	t.filterTrim = false
	return nil
}

// addrs walks every address that the maps lead from or to; some of them twice.
func (k *kernel) addrs(yield func(netip.Addr) bool) {
	for key := range k.services {
		if !yield(key.VIP) {
			return
		}
	}
	for _, e := range k.backends.each {
		if !yield(e.Addr) {
			return
		}
	}
}
