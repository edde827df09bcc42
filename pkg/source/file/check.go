// SPDX-License-Identifier: Apache-2.0

package file

import (
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// checkNetwork refuses ranges that overlap.
func (c *config) checkNetwork(d *decoder) {
	type pool struct {
		name string
		located[netip.Prefix]
	}
	n := c.network
	pools := []pool{
		{"network.services", n.services},
		{"network.services6", n.services6},
		{"network.workloads", n.workloads},
		{"network.workloads6", n.workloads6},
	}
	for i, second := range pools {
		for _, first := range pools[:i] {
			if first.v.Overlaps(second.v) {
				p := at0(second.place, first.place)
				d.report(p, "%s %s overlaps %s %s; choose ranges apart", second.name, second.v, first.name, first.v)
			}
		}
	}
}

// listenUse is one listen address taken apart.
type listenUse struct {
	name string // the key below listen
	located[string]
	host, port string
}

// wild tells that the listener takes connections to every address.
func (l listenUse) wild() bool {
	a, err := netip.ParseAddr(l.host)
	return err != nil || a.IsUnspecified()
}

func (c *config) listens() []listenUse {
	l := c.listen
	all := []listenUse{
		{name: "http", located: l.http},
		{name: "https", located: l.https},
		{name: "postgres", located: l.postgres},
		{name: "mongo", located: l.mongo},
		{name: "redis", located: l.redis},
		{name: "dns", located: l.dns},
		{name: "metrics", located: l.metrics},
		{name: "dashboard", located: l.dashboard},
	}
	on := all[:0]
	for _, u := range all {
		if u.host, u.port, _ = cutPort(u.v); u.port != "" && u.port != "0" {
			on = append(on, u)
		}
	}
	return on
}

// checkListen refuses two listeners on one address.
func (c *config) checkListen(d *decoder) {
	on := c.listens()
	for i, second := range on {
		for _, first := range on[:i] {
			if first.port == second.port && (first.host == second.host || first.wild() || second.wild()) {
				p := at0(second.place, first.place)
				d.report(p, `listen.%s %s and listen.%s %s take the same port; choose another, or "" to turn one off`,
					second.name, quote(second.v), first.name, quote(first.v))
			}
		}
	}
}

// checkReplicaAddresses refuses a replica that is a virtual IP of the file:
// its packets would go round in the balancer.
func (b *builder) checkReplicaAddresses() {
	if len(b.vips) == 0 {
		return
	}
	for i := range b.c.services {
		for _, r := range b.c.services[i].replicas.v {
			for _, a := range r.addrs.v {
				if owner, is := b.vips[a.v]; is {
					b.d.report(a.place, "replica %s is the virtual IP of %s; give the address of a host", a.v, owner)
				}
			}
		}
	}
}

// nodePortUse is one service's wish for a port of the node.
type nodePortUse struct {
	at    place
	port  uint16
	proto []model.Protocol
}

// checkNodePorts refuses a node port that takes the connections of a listener
// of fairlead's own which the config uses.
func (b *builder) checkNodePorts() {
	for _, u := range b.ports {
		for _, l := range b.c.listens() {
			if n, err := decimal(l.port); err != nil || n != int64(u.port) {
				continue
			}
			if !slices.Contains(u.proto, model.TCP) && l.name != "dns" || !b.public(l) || !b.serves(l.name) {
				continue
			}
			b.d.report(u.at, `port %d is listen.%s %s, and the two would take each other's connections; choose another, or "" to turn that off`,
				u.port, l.name, quote(l.v))
		}
	}
}

// public tells whether the listener can be on the node's public addresses.
func (b *builder) public(l listenUse) bool {
	if l.wild() {
		return true
	}
	a, _ := netip.ParseAddr(l.host)
	if b.c.node.addresses == nil {
		return !a.IsLoopback()
	}
	return slices.Contains(b.c.node.addresses, a)
}

// serves tells whether the config gives the listener anything to serve.
func (b *builder) serves(listen string) bool {
	if b.d.elsewhere {
		return true // who knows which other containers use it
	}
	kind := map[string]string{"postgres": "POSTGRES", "mongo": "MONGO", "redis": "REDIS"}[listen]
	for i := range b.c.services {
		for _, e := range b.c.services[i].expose {
			switch {
			case kind != "" && e.tcp != nil && e.tcp.kind.v == kind,
				(listen == "http" || listen == "https") && e.http != nil:
				return true
			}
		}
	}
	return listen == "dns" || listen == "metrics" || listen == "dashboard"
}
