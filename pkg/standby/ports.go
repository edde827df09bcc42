// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// ports finds services by what clients connect to. It is written once. There may
// be very many services that sleep: a sorted list takes a third of a map's room.
type ports struct {
	vips []vipPort         // sorted
	node map[uint16]target // node ports, on any other address
}

type vipPort struct {
	at netip.AddrPort
	to target
}

type target struct {
	service *model.Service
	port    uint16 // container port
}

// sort is called once all vips are there.
func (p *ports) sort() {
	slices.SortFunc(p.vips, func(a, b vipPort) int { return a.at.Compare(b.at) })
	p.vips = slices.Clone(p.vips) // without the room to grow
}

// find tells what a client that connected to an address wants.
func (p *ports) find(local netip.AddrPort) (target, bool) {
	i, ok := slices.BinarySearchFunc(p.vips, local, func(v vipPort, at netip.AddrPort) int { return v.at.Compare(at) })
	if ok {
		return p.vips[i].to, true
	}
	to, ok := p.node[local.Port()]
	return to, ok && !local.Addr().IsLoopback()
}
