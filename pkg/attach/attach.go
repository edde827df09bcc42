// SPDX-License-Identifier: Apache-2.0

// Package attach decides which interface and which cgroup carries which BPF
// program, and keeps it so: XDP native, then generic, on interfaces where
// clients' packets arrive; TC (tcx, else clsact) on those and on every
// interface that leads to a replica; connect-time hooks on a cgroup. Links are
// pinned and replaced in place, so that forwarding outlives the agent and a
// new agent takes over without a gap. It loads no program and writes no map
// but the one that gives an interface its counter slot.
package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// Flags of an interface in the IfaceMap.
const (
	IfaceXDPXmit uint8 = 1 << 0 // XDP may redirect frames to it
	IfacePeer    uint8 = 1 << 1 // bpf_redirect_peer reaches the namespace behind it
)

// Programs are what is attached. A nil program is not attached anywhere.
type Programs struct {
	XDP *ebpf.Program
	TC  *ebpf.Program
	// XDPFrags is for interfaces that take only a program which knows frames of
	// several buffers. Optional.
	XDPFrags func() (*ebpf.Program, error)
	Cgroup   map[ebpf.AttachType]*ebpf.Program
}

// IfaceMap is the BPF array that maps an interface index to its counter slot,
// flags and MTU. If it also has `Iface(ifindex uint32) (slot, flags uint8, err
// error)`, a new agent keeps the slots of the one before.
type IfaceMap interface {
	SetIface(ifindex uint32, slot, flags uint8, mtu uint16) error
	ClearIface(ifindex uint32) error
}

// Hops tells which interface leads to an address (nexthop.Table).
type Hops interface {
	Lookup(addr netip.Addr) nexthop.Hop
	// Follow has new addresses tracked, and looked up anew if they are already.
	Follow(add, drop []netip.Addr)
	// Tracked are the interfaces that the data plane's replicas are behind:
	// those of the state it has applied, and those that drain. told is false
	// as long as it has not said.
	Tracked() (interfaces map[uint32]bool, told bool)
}

// Config of a Target. Programs, PinDir, Ifaces and Hops are needed.
type Config struct {
	Programs
	PinDir     string // a directory on a bpffs, of this package alone
	Ifaces     IfaceMap
	Hops       Hops
	CgroupRoot func() (string, error) // where node.cgroup is not set; default CgroupRoot
	Log        *slog.Logger           // default slog.Default()
}

// Target attaches the programs a state asks for. It is a reconcile.Target.
type Target struct {
	cfg    Config
	kernel *kernel
	slots  slots
	ifaces map[uint32]*iface // by index: those that carry something of ours
	last   *model.State      // that was applied without an error; nil: look at everything
	cgroup cgroup

	attachTCX func(link.TCXOptions) (link.Link, error)
	noTCX     bool // the kernel has said so

	mu     sync.Mutex // guards what follows, which readers see
	shown  []Interface
	cgPath string
	cgHook []string
	cgNote string
}

// New adopts what an agent before has pinned in PinDir: pins of interfaces
// that are gone are removed, all others stay attached as they are until Apply
// knows what is wanted. The caller closes the target with Close.
func New(cfg Config) (*Target, error) {
	if cfg.PinDir == "" || cfg.Ifaces == nil || cfg.Hops == nil {
		return nil, errors.New("new attach target: PinDir, Ifaces and Hops must be set")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.CgroupRoot == nil {
		cfg.CgroupRoot = CgroupRoot
	}
	if err := os.MkdirAll(cfg.PinDir, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	t := &Target{
		cfg: cfg, kernel: k, ifaces: map[uint32]*iface{}, attachTCX: link.AttachTCX,
		cgroup: cgroup{links: map[ebpf.AttachType][]*pinned{}, refused: map[ebpf.AttachType]refusal{}},
	}
	if err := t.adopt(); err != nil {
		t.Close()
		return nil, err
	}
	t.publish(nil)
	return t, nil
}

// Close closes the target's sockets and links. Programs stay attached by
// their pins; only Detach takes them off.
func (t *Target) Close() {
	for _, i := range t.ifaces {
		i.xdp.close()
		i.tcx.close()
	}
	for _, ps := range t.cgroup.links {
		for _, p := range ps {
			p.close()
		}
	}
	t.kernel.close()
}

// Name is "attach".
func (t *Target) Name() string { return "attach" }

// Serves lists no feature: programs serve services, not this package.
func (t *Target) Serves() []model.Feature { return nil }

// Apply attaches to the interfaces and the cgroup the state asks for, mends
// what drifted and then detaches from those no longer asked for.
func (t *Target) Apply(ctx context.Context, s *model.State) error {
	last := t.last
	t.last = nil
	if !t.covered(last, s) {
		if err := t.applyAll(ctx, s); err != nil {
			return err
		}
	}
	t.last = s
	return nil
}

func (t *Target) applyAll(ctx context.Context, s *model.State) error {
	links, err := t.kernel.links.List()
	if err != nil {
		return err
	}
	filters, err := t.kernel.ourFilters(links)
	if err != nil {
		return err
	}
	tracked, told := t.cfg.Hops.Tracked()
	want, unserved, err := t.wanted(s, links, tracked)
	if err != nil {
		return err
	}
	t.prune(links)
	t.adoptFilters(links, filters)
	var errs []error
	for _, w := range want {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if w.role == roleNIC { // which XDP program it carries is not announced
			if now, err := t.kernel.links.ByIndex(w.Index); err == nil {
				w.Link = now
			}
		}
		if err := t.ensure(w, filters[w.Index], s.Settings.Node); err != nil && t.kernel.has(w.Index) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, t.ensureCgroup(s.Settings.Node.Cgroup))
	keep := map[uint32]bool{}
	for _, w := range want {
		keep[w.Index] = true
	}
	for _, index := range slices.Sorted(maps.Keys(t.ifaces)) {
		// A new agent's state does not name the replicas that were removed just
		// before it; their replies must be translated until their drain ends.
		if !keep[index] && told {
			errs = append(errs, t.release(t.ifaces[index]))
		}
	}
	t.publish(unserved)
	return errors.Join(errs...)
}
