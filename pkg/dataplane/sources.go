// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Mode full-nat: backends see an address of the node and a port that no other
// flow has. Free ports lie in queues of the kernel: the programs take them from
// the front, and what a flow held goes back to the end when it is over, by the
// program that sees its end or by the sweep that deletes it. A flow that the
// kernel's LRU took tells nobody; its port is found by the audit.

// ports is what the agent knows of the sources and their ports.
type ports struct {
	mu       sync.Mutex // one audit at a time; taken after Target.mu, or without it
	sources  []netip.Addr
	own      bool          // the sources are fairlead's alone
	local    [2]uint16     // otherwise these ports are not
	missing  map[held]bool // at the last audit
	next     time.Time     // of the next audit
	total    int           // ports that there are
	lastUsed int           // at the last sweep
}

// held is a source port that somebody has.
type held struct {
	class bpf.PortClass
	port  bpf.SourcePort
}

// auditEvery is the time between two looks for lost ports. One is lost with
// each full-nat flow that a full flow table drops.
const auditEvery = 5 * time.Minute

// firstPort leaves the privileged ports alone: a source port below 1024 means
// something to some servers.
const firstPort = 1024

// localPorts reads the range of the sockets of this namespace.
func localPorts() (first, last uint16, err error) {
	const path = "/proc/sys/net/ipv4/ip_local_port_range"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, fmt.Errorf("read the ports of local sockets: %w", err)
	}
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", path, err)
	}
	return first, last, nil
}

// setSources makes the sources those of the state, with all their free ports.
func (t *Target) setSources(s *model.State) error {
	if t.plan.uses.nat == 0 {
		return nil
	}
	want, own, err := t.wantSources(s)
	if err != nil {
		return err
	}
	first, last, err := t.cfg.LocalPorts()
	if err != nil {
		return err
	}
	p := &t.ports
	p.mu.Lock()
	defer p.mu.Unlock()
	have, err := t.cfg.Maps.Sources()
	if err != nil {
		return err
	}
	next := placeSources(have, want)
	local := [2]uint16{first, last}
	if slices.Equal(have, next) && slices.Equal(p.sources, next) && p.own == own && p.local == local {
		return nil
	}
	for i, a := range next {
		if have[i] != a {
			if err := t.cfg.Maps.PutSource(uint16(i), a); err != nil {
				return err
			}
		}
	}
	p.sources, p.own, p.local = next, own, local
	t.warnOfSmallQueues(want)
	used, err := t.portsInUse()
	if err != nil {
		return err
	}
	p.missing, p.next = nil, t.cfg.Now().Add(auditEvery)
	return t.audit(used, true)
}

// warnOfSmallQueues tells of queues that an agent made which had room for fewer
// ports: they keep their size as long as they are pinned.
func (t *Target) warnOfSmallQueues(sources []netip.Addr) {
	v6 := 0
	for _, a := range sources {
		if a.Is6() {
			v6++
		}
	}
	room := int(t.cfg.Maps.PortLimit()) / (1<<16 - firstPort)
	if n := max(v6, len(sources)-v6); n > room {
		t.cfg.Log.Warn("not every source port will be used: the queues of free ports are those of an earlier version; \"fairlead detach\" once makes new ones",
			"room for addresses of a family", room, "addresses", n)
	}
}

// wantSources are the addresses that backends shall see.
func (t *Target) wantSources(s *model.State) (want []netip.Addr, own bool, err error) {
	if s.Settings.Node.Sources != nil {
		return s.Settings.Node.Sources, true, nil
	}
	node := s.Settings.Node.Addresses
	if node == nil && t.cfg.NodeAddrs != nil {
		if node, err = t.cfg.NodeAddrs(s.Settings.Node.Interfaces); err != nil {
			return nil, false, fmt.Errorf("find the node's addresses for mode full-nat: %w", err)
		}
	}
	for _, v6 := range []bool{false, true} {
		if i := slices.IndexFunc(node, func(a netip.Addr) bool { return a.Is6() == v6 }); i >= 0 {
			want = append(want, node[i])
		}
	}
	if len(want) == 0 {
		return nil, false, errors.New("mode full-nat: this node has no address that replicas could answer to; set node.sources")
	}
	return want, false, nil
}

// placeSources puts the wanted addresses where they are already, or where there is room.
func placeSources(have, want []netip.Addr) []netip.Addr {
	next := make([]netip.Addr, len(have))
	var rest []netip.Addr
	for _, a := range want {
		if i := slices.Index(have, a); i >= 0 {
			next[i] = a
		} else {
			rest = append(rest, a)
		}
	}
	for i := range next {
		if len(rest) > 0 && !next[i].IsValid() {
			next[i], rest = rest[0], rest[1:]
		}
	}
	return next
}

// portsInUse lists the ports that flows hold.
func (t *Target) portsInUse() (map[held]bool, error) {
	used := map[held]bool{}
	err := t.cfg.Maps.EachFlow(func(k bpf.FlowKey, f bpf.Flow, _ bool) bool {
		if h, ok := holds(k, f); ok {
			used[h] = true
		}
		return true
	})
	return used, err
}

// holds tells which port a flow has, by the entry of its replies.
func holds(k bpf.FlowKey, f bpf.Flow) (held, bool) {
	if f.Flags&bpf.FlowNAT == 0 || f.Flags&bpf.FlowReply == 0 || f.State&bpf.FlowReturned != 0 {
		return held{}, false
	}
	return held{
		class: bpf.PortClass{UDP: k.Proto == uint8(model.UDP), V6: k.Dst.Addr().Is6()},
		port:  bpf.SourcePort{Source: f.Source, Port: k.Dst.Port()},
	}, true
}

// giveBack frees the port of a flow that was deleted.
func (t *Target) giveBack(k bpf.FlowKey, f bpf.Flow) error {
	h, ok := holds(k, f)
	if !ok {
		return nil
	}
	return t.cfg.Maps.GivePort(h.class, h.port)
}

// auditIfDue looks for lost ports now and then.
func (t *Target) auditIfDue(used map[held]bool) error {
	p := &t.ports
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastUsed = len(used)
	if p.sources == nil || t.cfg.Now().Before(p.next) {
		return nil
	}
	p.next = t.cfg.Now().Add(auditEvery)
	return t.audit(used, false)
}

// audit finds the ports that are neither free nor held by a flow. One that was
// just on its way from one to the other is missing only once; what is missing
// twice, or with fill at all, becomes free again. A port that is free twice does
// no harm: who takes it second finds its tuple claimed. p.mu is held.
func (t *Target) audit(used map[held]bool, fill bool) error {
	p := &t.ports
	missing, total := map[held]bool{}, 0
	for _, class := range bpf.PortClasses {
		all := p.all(class)
		total += len(all)
		free, whole, err := t.freePorts(class)
		if err != nil {
			return err
		}
		if !whole {
			continue // somebody was faster; next time
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, port := range all {
			h := held{class, port}
			if free[port] || used[h] {
				continue
			}
			if !fill && !p.missing[h] {
				missing[h] = true
				continue
			}
			if err := t.cfg.Maps.GivePort(class, port); err != nil {
				return err
			}
		}
	}
	p.missing, p.total = missing, total
	return nil
}

// all lists the ports of a class.
func (p *ports) all(c bpf.PortClass) (out []bpf.SourcePort) {
	for i, a := range p.sources {
		if !a.IsValid() || a.Is6() != c.V6 {
			continue
		}
		for port := firstPort; port <= 65535; port++ {
			if p.usable(uint16(port)) {
				out = append(out, bpf.SourcePort{Source: uint16(i), Port: uint16(port)})
			}
		}
	}
	return out
}

func (p *ports) usable(port uint16) bool {
	return port >= firstPort && (p.own || port < p.local[0] || port > p.local[1])
}

// freePorts takes every free port once and puts it back at the end, unless it
// is none of ours any longer. whole is false if it cannot tell whether it saw
// all of them.
func (t *Target) freePorts(c bpf.PortClass) (free map[bpf.SourcePort]bool, whole bool, err error) {
	p, maps := &t.ports, t.cfg.Maps
	free = map[bpf.SourcePort]bool{}
	if err := maps.GivePort(c, bpf.PortMark); err != nil {
		return nil, false, err
	}
	for range maps.PortLimit() {
		port, ok, err := maps.TakePort(c)
		switch {
		case err != nil:
			return nil, false, err
		case !ok || port == bpf.PortMark:
			return free, true, nil
		case int(port.Source) >= len(p.sources) || p.sources[port.Source].Is6() != c.V6 || !p.sources[port.Source].IsValid() || !p.usable(port.Port):
			continue
		}
		if err := maps.GivePort(c, port); err != nil {
			return nil, false, err
		}
		if free[port] { // a program took the mark, or the port is there twice
			return nil, false, nil
		}
		free[port] = true
	}
	return nil, false, nil
}
