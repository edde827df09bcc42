// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"net/netip"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Stats reads all counters. Active connections and flow entries are those of
// the last sweep.
func (t *Target) Stats() (Stats, error) {
	t.ports.mu.Lock()
	ports, used := t.ports.total, t.ports.lastUsed
	t.ports.mu.Unlock()
	s := Stats{SourcePorts: uint64(ports), SourcePortsUsed: uint64(used), FlowLimit: uint64(t.cfg.Maps.Sizes().Flows)}
	err := t.cfg.Maps.EachPacketCount(func(slot uint32, reason int, packets uint64) {
		r := bpf.Reasons[reason]
		s.Packets = append(s.Packets, PacketCount{Slot: slot, Verdict: string(r.Verdict), Reason: r.Name, Packets: packets})
	})
	if err != nil {
		return Stats{}, err
	}
	s.Services, s.Evictions, s.Flows, err = t.counts(func(model.ServiceName) bool { return true })
	if err != nil {
		return Stats{}, err
	}
	return s, nil
}

// Counts reads the counters of some services: a system call each, where Stats
// reads all there is.
func (t *Target) Counts(of func(model.ServiceName) bool) ([]ServiceCount, error) {
	all, _, _, err := t.counts(of)
	return all, err
}

// counts tells also of flows that were opened anew, and of the entries that the last
// sweep found.
func (t *Target) counts(of func(model.ServiceName) bool) (all []ServiceCount, reopened, entries uint64, err error) {
	t.mu.Lock()
	names := map[uint32]portName{}
	for id, name := range t.kernel.names {
		if of(name.service) {
			names[id] = name
		}
	}
	swept := t.swept
	t.mu.Unlock()
	for id, name := range names {
		c, err := t.cfg.Maps.ServiceStats(id)
		if err != nil {
			return nil, 0, 0, err
		}
		reopened += c.Reopened
		all = append(all, ServiceCount{
			Service:     name.service,
			Port:        model.Port{Service: name.port, Protocol: name.proto},
			Connections: c.Connections,
			PacketsIn:   c.PacketsIn, BytesIn: c.BytesIn,
			PacketsOut: c.PacketsOut, BytesOut: c.BytesOut,
			Active: swept.active[id],
		})
	}
	return all, reopened, swept.entries, nil
}

// Flows calls yield for every tracked connection that the filter lets through,
// in no order, until it returns false or the filter's limit is reached.
func (t *Target) Flows(ctx context.Context, filter FlowFilter, yield func(Flow) bool) error {
	t.mu.Lock()
	names := make(map[uint32]portName, len(t.kernel.names))
	for id, name := range t.kernel.names {
		names[id] = name
	}
	now, err := t.hz.read(t.cfg.Maps)
	rate := t.hz
	t.mu.Unlock()
	if err != nil {
		return err
	}
	n := 0
	err = t.cfg.Maps.EachFlow(func(k bpf.FlowKey, f bpf.Flow, confirmed bool) bool {
		if ctx.Err() != nil {
			return false
		}
		idle := rate.age(now, f.Seen)
		if !isFlow(f) || !confirmed && idle > t.lifetime(k, f, confirmed) { // a line keeps what is over
			return true
		}
		flow := Flow{
			Service: names[f.Service].service, Protocol: model.Protocol(k.Proto),
			Client: k.Src, VIP: k.Dst, Backend: f.Dst, State: stateOf(k, f, confirmed), Idle: idle,
		}
		if f.Src != flow.Client {
			flow.Source = f.Src
		}
		if f.Flags&bpf.FlowSingle != 0 {
			flow.Source = netip.AddrPort{}
			flow.Client, flow.VIP, flow.Backend = f.Dst, f.Src, k.Src
		}
		if !filter.matches(flow) {
			return true
		}
		n++
		return yield(flow) && (filter.Limit == 0 || n < filter.Limit)
	})
	if err != nil {
		return err
	}
	return ctx.Err()
}

func stateOf(k bpf.FlowKey, f bpf.Flow, confirmed bool) string {
	switch {
	case !confirmed && !answered(k, f):
		return "new"
	case f.State&(bpf.FlowFinClient|bpf.FlowFinBackend|bpf.FlowRST) != 0:
		return "closing"
	}
	return "established"
}

func (f FlowFilter) matches(flow Flow) bool {
	return (f.Service == model.ServiceName{} || f.Service == flow.Service) &&
		(!f.Client.IsValid() || f.Client == flow.Client.Addr()) &&
		(!f.Backend.IsValid() || f.Backend == flow.Backend.Addr())
}
