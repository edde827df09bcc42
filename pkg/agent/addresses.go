// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// nodeAddrs lists the global addresses of the named interfaces, or, for nil,
// of those of the default routes. A name that does not exist has none: attach
// reports it.
func nodeAddrs(links *nexthop.Links, names []string) ([]netip.Addr, error) {
	var indexes []uint32
	if names == nil {
		var err error
		if indexes, err = links.Default(); err != nil {
			return nil, err
		}
	} else {
		all, err := links.List()
		if err != nil {
			return nil, err
		}
		for _, l := range all {
			if slices.Contains(names, l.Name) {
				indexes = append(indexes, l.Index)
			}
		}
	}
	var addrs []netip.Addr
	var errs []error
	for _, i := range indexes {
		found, err := links.Addrs(i)
		addrs, errs = append(addrs, found...), append(errs, err)
	}
	return addrs, errors.Join(errs...)
}
