// SPDX-License-Identifier: Apache-2.0

// Package dataplane is the Target that keeps the kernel's maps equal to the
// desired state: it gives ids to services and backends and keeps them over
// restarts, writes in an order that never shows programs half a change
// (backends, then table, then service; deletes the other way), lets removed
// backends drain, and sweeps flows that ended. It attaches nothing and starts
// nothing.
package dataplane

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// Maps is what the data plane needs of the kernel: bpf.Objects, or a fake.
type Maps interface {
	Sizes() bpf.Sizes
	EachService(yield func(bpf.ServiceKey, bpf.Service) bool) error
	PutService(bpf.ServiceKey, bpf.Service) error
	DeleteService(bpf.ServiceKey) error
	EachAllow(yield func(bpf.Allow) bool) error
	PutAllow(bpf.Allow) error
	DeleteAllow(bpf.Allow) error
	AddFilter(iter.Seq[netip.Addr]) error
	SetFilter(iter.Seq[netip.Addr]) error
	EachBackend(yield func(uint32, bpf.Backend) bool) error // by rising index
	PutBackend(uint32, bpf.Backend) error
	Slots(base uint32, into []uint32) error
	PutSlots(base uint32, ids []uint32) error
	EachFlow(yield func(k bpf.FlowKey, f bpf.Flow, confirmed bool) bool) error
	PutFlow(k bpf.FlowKey, f bpf.Flow, confirmed bool) error
	DeleteFlow(k bpf.FlowKey, seen bpf.Flow) (deleted bool, err error)
	MendUntil(jiffies uint64) error
	Sources() ([]netip.Addr, error)
	PutSource(i uint16, a netip.Addr) error
	PortLimit() uint32
	TakePort(bpf.PortClass) (p bpf.SourcePort, ok bool, err error)
	GivePort(bpf.PortClass, bpf.SourcePort) error
	SetLoad(backend, flows uint32) error
	Clock() (jiffies uint64, monotonic time.Duration, err error)
	EachPacketCount(yield func(slot uint32, reason int, packets uint64)) error
	ServiceStats(id uint32) (bpf.ServiceStats, error)
	ResetServiceStats(id uint32) error
}

// Hops tells where backends are: nexthop.Table.
type Hops interface {
	// Track replaces the set of addresses that are followed.
	Track([]netip.Addr)
	// Follow adds to that set and takes from it.
	Follow(add, drop []netip.Addr)
	Lookup(netip.Addr) nexthop.Hop // by several goroutines at once
}

// Config is what a Target needs.
type Config struct {
	Maps Maps
	Hops Hops
	// NodeAddrs lists the node's public addresses on the given interfaces
	// (nil: those of the default routes), for node ports. Optional.
	NodeAddrs func(interfaces []string) ([]netip.Addr, error)
	// LocalPorts is the range that local sockets of this network namespace take
	// ports from by themselves. Default: the sysctl ip_local_port_range.
	LocalPorts func() (first, last uint16, err error)
	Now        func() time.Time // default time.Now
	Log        *slog.Logger     // default slog.Default()
	Timeouts   Timeouts
}

// Target implements reconcile.Target. Create it with New.
type Target struct {
	cfg Config

	mu     sync.Mutex // one Apply, Sweep or reading at a time
	kernel kernel
	plan   plan
	whole  *model.State // the last that was applied whole; nil: none was
	ports  ports
	fresh  bool // the bookkeeping was just read from the maps
	swept  sweep
	// filterTrim: the address filter holds more than the maps need.
	filterTrim bool
	hz         clockRate
	wake       chan struct{} // a drain's deadline was set
	desks      []desk
}

// New makes a Target and adopts what the maps hold already: ids, tables and
// backends keep their places. Nothing is written before the first Apply.
func New(cfg Config) (*Target, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.LocalPorts == nil {
		cfg.LocalPorts = localPorts
	}
	cfg.Timeouts.defaults()
	t := &Target{cfg: cfg, wake: make(chan struct{}, 1), desks: make([]desk, min(runtime.GOMAXPROCS(0), maxDesks))}
	if err := t.adopt(); err != nil {
		return nil, err
	}
	t.fresh = true
	return t, nil
}

// Name is "dataplane".
func (t *Target) Name() string { return "dataplane" }

// Serves lists what the packet programs do.
func (t *Target) Serves() []model.Feature {
	return []model.Feature{
		model.FeatureL4, model.FeatureNodePort, model.FeatureAffinity, model.FeatureAllow, model.FeatureRateLimit,
		model.FeatureFullNAT, model.FeaturePolicy,
	}
}

// Apply writes the difference between the state and the kernel: only what
// changed since the last one is looked at, unless that failed. The same state
// again re-reads the maps and mends what something else changed.
func (t *Target) Apply(_ context.Context, s *model.State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.plan.state
	if !t.fresh && (last == nil || last.Generation == s.Generation) {
		if err := t.reread(); err != nil {
			return err
		}
	}
	t.fresh = false
	d, err := t.plot(s)
	t.plan.state = nil
	if err != nil {
		return err
	}
	if err := t.write(d); err != nil {
		return err
	}
	t.plan.state, t.whole = s, s
	return nil
}
