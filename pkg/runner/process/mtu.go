// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// ethernetMTU is the largest a replica gets: that of Ethernet (RFC 894).
const ethernetMTU = 1500

// leastMTU is what IPv6 asks of every link (RFC 8200, section 5).
const leastMTU = 1280

// uplinkMTU is the MTU for a replica's interface: the smallest of the host's
// default routes' interfaces, so that what a replica sends fits the way to its
// clients. The data plane sends replies on without asking whether they fit.
func uplinkMTU(h *netlink.Handle) (int, error) {
	mtu := ethernetMTU
	routes, err := h.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		links := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			links = append(links, hop.LinkIndex)
		}
		for _, index := range links {
			link, err := h.LinkByIndex(index)
			if err == nil && link.Attrs().MTU >= leastMTU {
				mtu = min(mtu, link.Attrs().MTU)
			}
		}
	}
	return mtu, nil
}
