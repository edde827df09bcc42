// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/maglev"
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

// replica identifies a backend entry: one address of one service port.
type replica struct {
	owner portName
	addr  netip.Addr
}

// table is the consistent-hash table of one service port in one family.
type table struct {
	members []maglev.Backend
	addrs   []netip.Addr // of members
}

// tableName is where a table belongs.
type tableName struct {
	owner portName
	v6    bool
}

// desired is a state in the terms of the maps, before ids.
type desired struct {
	services map[bpf.ServiceKey]tableName // VIP markers have the zero name
	tables   map[tableName]table
	backends map[replica]bpf.Backend
	rules    map[portName]rules
	flows    map[tableName]bool // needs flow entries: see needFlows
	drains   map[model.ServiceName]time.Duration
}

// rules are what the clients of a service port are held to.
type rules struct {
	allow    []netip.Prefix
	affinity time.Duration
	rate     model.RateLimit
}

// defaultAffinity is that of Kubernetes (ClientIPConfig.timeoutSeconds).
const defaultAffinity = 3 * time.Hour

func rulesOf(svc *model.Service) rules {
	r := rules{allow: svc.Allow, rate: svc.RateLimit}
	if svc.Balance.Affinity == "client-ip" {
		r.affinity = cmp.Or(svc.Balance.AffinityTimeout, defaultAffinity)
	}
	return r
}

// entry is the service entry these rules ask for, in the kernel's units.
func (r rules) entry(id uint32, sp span) bpf.Service {
	return bpf.Service{
		ID: id, Base: sp.base, Len: sp.len,
		AllowOnly: len(r.allow) > 0,
		Affinity:  uint32((r.affinity + time.Second - 1) / time.Second),
		Rate:      r.rate.PerSecond,
		Burst:     max(r.rate.Burst, min(r.rate.PerSecond, 1)),
	}
}

// vipMarker is the entry that makes a VIP's unserved ports refused.
func vipMarker(vip netip.Addr) bpf.ServiceKey { return bpf.ServiceKey{VIP: vip} }

// compile translates a state. It also tells the next-hop table what to follow.
func (t *Target) compile(s *model.State) (*desired, error) {
	want := &desired{
		services: map[bpf.ServiceKey]tableName{},
		tables:   map[tableName]table{},
		backends: map[replica]bpf.Backend{},
		rules:    map[portName]rules{},
		flows:    map[tableName]bool{},
		drains:   map[model.ServiceName]time.Duration{},
	}
	t.cfg.Hops.Track(t.tracked(s))
	node, err := t.nodeAddrs(s)
	errs := []error{err}
	for i := range s.Services {
		svc := &s.Services[i]
		want.drains[svc.Name] = svc.Drain
		for _, p := range svc.Ports {
			errs = append(errs, t.compilePort(want, svc, p, node))
		}
		for _, vip := range svc.VIPs() {
			want.services[vipMarker(vip)] = tableName{}
		}
	}
	t.needFlows(want)
	return want, errors.Join(errs...)
}

// tracked lists every address whose next hop is needed: the backends', also of
// those that are draining.
func (t *Target) tracked(s *model.State) []netip.Addr {
	seen := map[netip.Addr]bool{}
	for i := range s.Services {
		for _, b := range s.Services[i].Backends {
			for _, a := range b.Addrs() {
				seen[a] = true
			}
		}
	}
	for _, a := range t.backendAddrs() {
		seen[a] = true
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare)
}

// backendAddrs lists the addresses of all entries, draining ones too.
func (t *Target) backendAddrs() []netip.Addr {
	seen := map[netip.Addr]bool{}
	for _, e := range t.kernel.backends {
		if e.Addr.IsValid() {
			seen[e.Addr] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), netip.Addr.Compare)
}

func (t *Target) nodeAddrs(s *model.State) ([]netip.Addr, error) {
	uses := slices.ContainsFunc(s.Services, func(svc model.Service) bool { return len(svc.NodePorts) > 0 })
	if !uses || s.Settings.Node.Addresses != nil || t.cfg.NodeAddrs == nil {
		return s.Settings.Node.Addresses, nil
	}
	addrs, err := t.cfg.NodeAddrs(s.Settings.Node.Interfaces)
	if err != nil {
		return nil, fmt.Errorf("find the node's addresses for node ports: %w", err)
	}
	return addrs, nil
}

func (t *Target) compilePort(want *desired, svc *model.Service, p model.Port, node []netip.Addr) error {
	owner := portName{service: svc.Name, port: p.Service, proto: p.Protocol}
	want.rules[owner] = rulesOf(svc)
	var errs []error
	for _, v6 := range []bool{false, true} {
		family := netip.IPv4Unspecified()
		if v6 {
			family = netip.IPv6Unspecified()
		}
		keys := keysOf(svc, p, node, v6)
		if len(keys) == 0 {
			continue
		}
		name := tableName{owner: owner, v6: v6}
		for _, k := range keys {
			if other, taken := want.services[k]; taken {
				errs = append(errs, fmt.Errorf("service %s: %s port %d/%s is served by %s already",
					svc.Name, k.VIP, k.Port, p.Protocol, other.owner.service))
				continue
			}
			want.services[k] = name
		}
		serving := svc.Serving(family)
		for _, b := range svc.Backends {
			if addr := b.Addr(family); addr.IsValid() {
				open := slices.ContainsFunc(serving, func(s model.Backend) bool { return s.Addr(family) == addr })
				want.backends[replica{owner, addr}] = backendEntry(addr, p, b.Condition, open, t.cfg.Hops.Lookup(addr))
			}
		}
		want.tables[name] = tableOf(serving, family, p)
	}
	return errors.Join(errs...)
}

// keysOf lists the addresses and ports under which clients reach a port.
func keysOf(svc *model.Service, p model.Port, node []netip.Addr, v6 bool) []bpf.ServiceKey {
	var keys []bpf.ServiceKey
	for _, vip := range svc.VIPs() {
		if vip.Is6() == v6 {
			keys = append(keys, bpf.ServiceKey{VIP: vip, Port: p.Service, Proto: uint8(p.Protocol)})
		}
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

func tableOf(serving []model.Backend, family netip.Addr, p model.Port) table {
	var tb table
	for _, b := range serving {
		addr := b.Addr(family)
		tb.addrs = append(tb.addrs, addr)
		tb.members = append(tb.members, maglev.Backend{
			Key:    netip.AddrPortFrom(addr, p.Container).String(),
			Weight: max(b.Weight, 1),
			Share:  b.Share,
		})
	}
	return tb
}

func backendEntry(addr netip.Addr, p model.Port, c model.Condition, open bool, hop nexthop.Hop) bpf.Backend {
	b := bpf.Backend{Addr: addr, Port: p.Container, Proto: uint8(p.Protocol), Flags: bpf.BackendUsed}
	if open {
		b.Flags |= bpf.BackendOpen
	}
	if c == model.Down {
		b.Flags |= bpf.BackendDown
	}
	return withHop(b, hop)
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
