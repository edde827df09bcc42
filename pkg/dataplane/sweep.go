// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Timeouts are how long a flow without packets is remembered; zero fields take
// the defaults. The tables are bounded whatever these say.
type Timeouts struct {
	Every       time.Duration // between sweeps; default 10 s
	TCP         time.Duration // established; default 24 h (RFC 5382 asks for 2 h 4 min at least)
	TCPClosed   time.Duration // after RST, or FIN of both sides; default 10 s
	UDP         time.Duration // default 3 min (RFC 4787 asks for 2 min at least)
	Unconfirmed time.Duration // handshake not finished, datagram not answered; default 1 min
}

func (o *Timeouts) defaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&o.Every, 10 * time.Second}, {&o.TCP, 24 * time.Hour}, {&o.TCPClosed, 10 * time.Second}, {&o.UDP, 3 * time.Minute}, {&o.Unconfirmed, time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}

// sweep is what the last look at the flow table saw.
type sweep struct {
	entries uint64
	live    uint64            // in the table of confirmed ones
	active  map[uint32]uint64 // by service id
	load    map[uint32]uint32 // by backend, of services that choose by it
	ports   map[held]bool     // that flows hold
}

// Run sweeps the flow table until ctx ends: entries of flows that are over or
// idle go, and so do those of backends whose drain has ended.
func (t *Target) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.wake:
		case <-timer.C:
			err := t.Sweep()
			if err != nil && !failing {
				t.cfg.Log.Error("sweep flow table", "error", err)
			}
			failing = err != nil
		}
		timer.Reset(t.untilSweep())
	}
}

// untilSweep is the time to the next sweep or to the end of the next drain.
func (t *Target) untilSweep() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.cfg.Timeouts.Every
	now := t.cfg.Now()
	for _, release := range t.kernel.backends.retiring {
		d = min(d, max(release.Sub(now), 0)+time.Millisecond)
	}
	return d
}

// Sweep looks at every flow once. Meanwhile states are applied: what it saw is
// judged again before anything is done about it.
func (t *Target) Sweep() error {
	t.mu.Lock()
	now, err := t.hz.read(t.cfg.Maps)
	rate, released, unsettled, late := t.hz, t.released(), t.watchUnsettled(), t.watchStragglers()
	t.mu.Unlock()
	if err != nil {
		return err
	}
	seen := sweep{active: map[uint32]uint64{}, load: map[uint32]uint32{}, ports: map[held]bool{}}
	expired, leaving := map[bpf.FlowKey]bpf.Flow{}, map[bpf.FlowKey]bpf.Flow{}
	err = t.cfg.Maps.EachFlow(func(k bpf.FlowKey, f bpf.Flow, confirmed bool) bool {
		seen.entries++
		if confirmed {
			seen.live++
		}
		unsettled.see(t.cfg.Maps, k, f)
		late.see(k, f)
		idle := rate.age(now, f.Seen) > t.lifetime(k, f, confirmed)
		if !idle || confirmed { // else it ends now, or stays in a line for nothing
			seen.count(f)
		}
		seen.holdings(k, f)
		switch {
		case released[f.Backend]:
			leaving[k] = f
		case idle:
			expired[k] = f
		case (confirmed || answered(k, f)) && isFlow(f) && !over(f):
			seen.active[f.Service]++
		}
		return true
	})
	if err != nil {
		return err
	}
	var errs []error
	for k, f := range expired {
		// One direction may be silent for long while the other is busy. An entry
		// whose twin the kernel's LRU took stays until that takes it too.
		if _, both := expired[f.Twin(k.Proto)]; both || f.Flags&bpf.FlowSingle != 0 {
			errs = append(errs, t.deleteFlow(k, f))
		}
	}
	errs = append(errs, t.auditIfDue(seen.ports), t.mendIfFull(seen.live, rate.in(now, t.cfg.Timeouts.TCP)))
	t.mu.Lock()
	defer t.mu.Unlock()
	errs = append(errs, t.setLoads(seen.load))
	seen.ports = nil
	t.swept = seen
	errs = append(errs, t.finish(late), t.release(released, leaving))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("sweep flow table: %w", err)
	}
	return t.settle(unsettled)
}

// mendIfFull has programs watch for entries that the kernel's LRU took, until all
// connections that are idle now will have been given up. It takes entries when there
// is no room for new ones; nobody tells when, and each CPU keeps some free ones to
// itself, so the last eighth counts as full.
func (t *Target) mendIfFull(live, until uint64) error {
	if size := uint64(t.cfg.Maps.Sizes().Flows); live < size-size/8 {
		return nil
	}
	return t.cfg.Maps.MendUntil(until)
}

// release ends the flows of backends whose drain is over, and the backends'
// entries. One that the state took back meanwhile keeps all of it.
func (t *Target) release(backends map[uint32]bool, flows map[bpf.FlowKey]bpf.Flow) error {
	still := t.released()
	for id := range backends {
		if !still[id] {
			delete(backends, id)
		}
	}
	var errs []error
	for k, f := range flows {
		if !backends[f.Backend] {
			continue
		}
		errs = append(errs, t.handOver(k, f), t.deleteFlow(k, f))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return t.free(backends)
}

// deleteFlow deletes an entry and frees what the flow held.
func (t *Target) deleteFlow(k bpf.FlowKey, f bpf.Flow) error {
	deleted, err := t.cfg.Maps.DeleteFlow(k, f)
	if err != nil || !deleted {
		return err
	}
	return t.giveBack(k, f)
}

// count notes a flow that its backend is busy with.
func (s *sweep) count(f bpf.Flow) {
	if f.Flags&bpf.FlowLeast != 0 && isFlow(f) && f.State&bpf.FlowReturned == 0 {
		s.load[f.Backend]++
	}
}

// holdings notes the port that a flow holds.
func (s *sweep) holdings(k bpf.FlowKey, f bpf.Flow) {
	if h, ok := holds(k, f); ok {
		s.ports[h] = true
	}
}

// setLoads corrects the counts that programs keep of the flows of backends:
// entries that the kernel's LRU took are still in them.
func (t *Target) setLoads(load map[uint32]uint32) error {
	for id := range t.swept.load {
		if _, still := load[id]; !still {
			load[id] = 0
		}
	}
	for id, n := range load {
		if err := t.cfg.Maps.SetLoad(id, n); err != nil {
			return err
		}
		if n == 0 {
			delete(load, id)
		}
	}
	return nil
}

// handOver gives a released flow of a direct service to the backend that its
// packets go to from now on: that one will reset it, and without an entry the
// reset would not find the client.
func (t *Target) handOver(k bpf.FlowKey, f bpf.Flow) error {
	if f.Flags&bpf.FlowSingle == 0 {
		return nil
	}
	table := t.kernel.tables[tableName{owner: t.kernel.names[f.Service], v6: k.Src.Addr().Is6()}]
	id, ok := ownerOf(t.cfg.Maps, table.base, table.len, f.Hash)
	if !ok || id == f.Backend {
		return nil
	}
	owner := t.kernel.backends.at(id)
	if owner == nil {
		return nil
	}
	f.Backend = id
	k.Src = netip.AddrPortFrom(owner.Addr, owner.Port)
	return t.cfg.Maps.PutFlow(k, f, true)
}

// isFlow tells the one entry that stands for a flow: the client's direction,
// or the replies' where that has none.
func isFlow(f bpf.Flow) bool {
	return f.Flags&bpf.FlowReply == 0 || f.Flags&bpf.FlowSingle != 0
}

func over(f bpf.Flow) bool {
	const both = bpf.FlowFinClient | bpf.FlowFinBackend
	return f.State&bpf.FlowRST != 0 || f.State&both == both
}

func (t *Target) lifetime(k bpf.FlowKey, f bpf.Flow, confirmed bool) time.Duration {
	o := &t.cfg.Timeouts
	switch {
	case !confirmed && !answered(k, f):
		return o.Unconfirmed
	case k.Proto == uint8(model.UDP):
		return o.UDP
	case over(f):
		return o.TCPClosed
	}
	return o.TCP
}

// answered tells of a flow over UDP whether its backend has sent something. Of a
// question and its answer nothing more is confirmed.
func answered(k bpf.FlowKey, f bpf.Flow) bool {
	return k.Proto == uint8(model.UDP) && f.State&bpf.FlowAnswered != 0
}

// released lists the backends whose drain has ended.
func (t *Target) released() map[uint32]bool {
	now := t.cfg.Now()
	out := map[uint32]bool{}
	for id, release := range t.kernel.backends.retiring {
		if !now.Before(release) {
			out[id] = true
		}
	}
	return out
}

// free empties the entries of released backends, now that no flow leads there.
func (t *Target) free(released map[uint32]bool) error {
	k := &t.kernel
	gone := map[netip.Addr]bool{}
	for id := range released {
		e := *k.backends.at(id)
		if err := t.cfg.Maps.PutBackend(id, bpf.Backend{}); err != nil {
			return err
		}
		k.backends.drop(id)
		k.forget(k.names[e.Service])
		gone[e.Addr] = true
	}
	if len(gone) > 0 {
		for _, e := range k.backends.each {
			delete(gone, e.Addr) // it leads there, too
		}
	}
	if len(gone) > 0 { // an interface may have lost its last one
		t.cfg.Hops.Follow(nil, slices.Collect(maps.Keys(gone)))
		t.filterTrim = true
	}
	return t.trimFilter()
}
