// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// portName identifies a service port whatever its addresses: one id, one row
// of counters.
type portName struct {
	service model.ServiceName
	port    uint16
	proto   model.Protocol
}

// tableName is where a table belongs: a service port in one family.
type tableName struct {
	owner portName
	v6    bool
}

// unit is a service in the terms of the maps, before ids.
type unit struct {
	markers []bpf.ServiceKey // of its VIPs
	ports   []port
}

// port is one service port.
type port struct {
	owner  portName
	id     uint32 // of owner, from claim or putBackends on; 0: none yet
	rules  rules
	tables []table // of the families in which clients reach it
}

// table is the consistent-hash table of one service port in one family.
type table struct {
	name     tableName
	keys     []bpf.ServiceKey // under which clients reach it
	backends []bpf.Backend    // all there are, without their service's id; the open ones have slots
	shares   []uint8          // of backends, see maglev.Backend; nil: all have all of theirs
	entries  bool             // its flows need entries whatever other services do
}

// rules are what the clients of a service port are held to.
type rules struct {
	allow    []netip.Prefix
	affinity time.Duration
	rate     model.RateLimit
	nat      bool // mode full-nat
	least    bool // least-connections
	sleep    model.Sleep
}

// defaultAffinity is that of Kubernetes (ClientIPConfig.timeoutSeconds).
const defaultAffinity = 3 * time.Hour

func rulesOf(svc *model.Service) rules {
	r := rules{
		allow: svc.Allow, rate: svc.RateLimit,
		nat: svc.Mode == model.ModeFullNAT, least: svc.Balance.Policy == "least-connections", sleep: svc.Sleep,
	}
	if svc.Balance.Affinity == "client-ip" {
		r.affinity = cmp.Or(svc.Balance.AffinityTimeout, defaultAffinity)
	}
	return r
}

// entry is the service entry these rules ask for, in the kernel's units.
func (r *rules) entry(id uint32, sp span) bpf.Service {
	return bpf.Service{
		ID: id, Base: sp.base, Len: sp.len,
		AllowOnly: len(r.allow) > 0, NAT: r.nat, Least: r.least,
		Wakes: r.sleep != model.NeverSleeps, Sleep: r.sleep == model.Asleep,
		Affinity: uint32((r.affinity + time.Second - 1) / time.Second),
		Rate:     r.rate.PerSecond,
		Burst:    max(r.rate.Burst, min(r.rate.PerSecond, 1)),
	}
}

// vipMarker is the entry that makes a VIP's unserved ports refused.
func vipMarker(vip netip.Addr) bpf.ServiceKey { return bpf.ServiceKey{VIP: vip} }

// compileAll is compile for each of some services, in their order.
func (t *Target) compileAll(services []*model.Service, lookup func(netip.Addr) nexthop.Hop) []unit {
	units := make([]unit, len(services))
	t.split(len(services), func(_ *desk, i int) { units[i] = t.compile(services[i], lookup) })
	return units
}

// compile translates a service; lookup tells where its backends are.
func (t *Target) compile(svc *model.Service, lookup func(netip.Addr) nexthop.Hop) unit {
	u := unit{ports: make([]port, 0, len(svc.Ports))}
	rules := rulesOf(svc)
	for _, p := range svc.Ports {
		out := port{owner: portName{service: svc.Name, port: p.Service, proto: p.Protocol}, rules: rules}
		for _, v6 := range []bool{false, true} {
			if keys := keysOf(svc, p, t.plan.node, v6); len(keys) > 0 {
				tb := tableOf(svc, p, v6, lookup)
				tb.name, tb.keys = tableName{owner: out.owner, v6: v6}, keys
				tb.entries = rules.entries(p.Protocol) || len(keys) > 1
				out.tables = append(out.tables, tb)
			}
		}
		u.ports = append(u.ports, out)
	}
	for _, vip := range svc.VIPs() {
		u.markers = append(u.markers, vipMarker(vip))
	}
	return u
}

// entries tells whether flows under these rules cannot do with the table alone.
// UDP has no handshake that would tell old from new; affinity, allow lists and
// rate limits look at every flow; full-nat and least-connections choose what no
// table knows. So does a service port with several addresses,
// of which only an entry tells which one a reply comes from; and one whose replicas
// serve others, too (sockets). All else is direct: a client's packet
// touches no flow entry (docs/design/0002-stateless.md).
func (r *rules) entries(p model.Protocol) bool {
	return p != model.TCP || r.nat || r.least || len(r.allow) > 0 || r.affinity > 0 || r.rate.PerSecond > 0
}

// keysOf lists the addresses and ports under which clients reach a port.
func keysOf(svc *model.Service, p model.Port, node []netip.Addr, v6 bool) []bpf.ServiceKey {
	var keys []bpf.ServiceKey
	vip := svc.VIP4
	if v6 {
		vip = svc.VIP6
	}
	if vip.IsValid() {
		keys = append(keys, bpf.ServiceKey{VIP: vip, Port: p.Service, Proto: uint8(p.Protocol)})
	}
	for _, np := range svc.NodePorts {
		for _, a := range node {
			if np.ServicePort == p.Service && a.Is6() == v6 {
				keys = append(keys, bpf.ServiceKey{VIP: a, Port: np.Port, Proto: uint8(p.Protocol)})
			}
		}
	}
	return keys
}

func tableOf(svc *model.Service, p model.Port, v6 bool, lookup func(netip.Addr) nexthop.Hop) table {
	family := netip.IPv4Unspecified()
	if v6 {
		family = netip.IPv6Unspecified()
	}
	serves := svc.Serves(family)
	tb := table{backends: make([]bpf.Backend, 0, len(svc.Backends))}
	for i := range svc.Backends {
		b := &svc.Backends[i]
		addr := b.Addr(family)
		if !addr.IsValid() {
			continue
		}
		if b.Share > 0 && tb.shares == nil {
			tb.shares = make([]uint8, len(tb.backends), len(svc.Backends))
		}
		if tb.shares != nil {
			tb.shares = append(tb.shares, b.Share)
		}
		tb.backends = append(tb.backends, backendEntry(addr, p, b, serves(b), svc.Sleep == model.Asleep, lookup(addr)))
	}
	return tb
}

func backendEntry(addr netip.Addr, p model.Port, b *model.Backend, open, asleep bool, hop nexthop.Hop) bpf.Backend {
	out := bpf.Backend{
		Addr: addr, Port: p.Container, Proto: uint8(p.Protocol), Flags: bpf.BackendUsed, Weight: uint32(max(b.Weight, 1)),
	}
	if open {
		out.Flags |= bpf.BackendOpen
	}
	if b.Condition == model.Down || asleep && p.Protocol == model.UDP {
		out.Flags |= bpf.BackendDown // of a service that falls asleep every datagram is held: nothing else says that a flow goes on
	}
	return withHop(out, hop)
}

// withHop sets the way to a backend. An address of this node itself has none:
// its packets would need translation on the way out of a local socket.
func withHop(b bpf.Backend, hop nexthop.Hop) bpf.Backend {
	b.IfIndex, b.DMAC, b.SMAC = 0, [6]byte{}, [6]byte{}
	b.Flags &^= bpf.BackendMAC | bpf.BackendXDP | bpf.BackendPeer
	if hop.Local || hop.IfIndex == 0 {
		return b
	}
	b.IfIndex = hop.IfIndex
	if hop.Resolved() {
		b.DMAC, b.SMAC = hop.MAC, hop.SrcMAC
		b.Flags |= bpf.BackendMAC
	}
	if hop.XDPXmit {
		b.Flags |= bpf.BackendXDP
	}
	if hop.Peer {
		b.Flags |= bpf.BackendPeer
	}
	return b
}
