// SPDX-License-Identifier: Apache-2.0

package dataplane

import "net/netip"

// trimFilter forgets addresses that are gone. While a backend drains they may
// still have flows: then it waits for the sweep that frees the last one.
func (t *Target) trimFilter() error {
	k := &t.kernel
	if len(k.retiring) > 0 || !t.filterTrim {
		return nil
	}
	addrs := make([]netip.Addr, 0, len(k.services)+len(k.addrs))
	for key := range k.services {
		addrs = append(addrs, key.VIP)
	}
	for a := range k.addrs {
		addrs = append(addrs, a)
	}
	if err := t.cfg.Maps.SetFilter(addrs); err != nil {
		return err
	}
	t.filterTrim = false
	return nil
}
