// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// Config sizes and places the kernel objects. Sizes apply when the maps are
// made; maps that are pinned already keep theirs.
type Config struct {
	// PinDir is an existing directory on a bpffs; "": nothing is pinned and
	// everything goes with Close.
	PinDir string

	Services uint32 // served (address, port, protocol); default 65 536
	Backends uint32 // (replica, port, protocol); default 65 536
	Slots    uint32 // of all consistent-hash tables; default 4 Mi (16 MiB)
	Flows    uint32 // entries, two per connection; default 1 Mi (about 150 MiB when full)
	Embryos  uint32 // entries of flows nobody confirmed yet; default 128 Ki
	// HashSeed is the secret of the flow hash; 0: random, kept with the pins.
	// Nodes of one cluster need the same.
	HashSeed uint64
	// WithoutCheckMTU, for tests, has the programs do without bpf_check_mtu where
	// the kernel has it (5.12): they go by the MTU of SetIface.
	WithoutCheckMTU bool
	Log             *slog.Logger // default slog.Default()
}

func (c *Config) defaults() {
	for _, d := range []struct {
		size  *uint32
		value uint32
	}{{&c.Services, 1 << 16}, {&c.Backends, 1 << 16}, {&c.Slots, 1 << 22}, {&c.Flows, 1 << 20}, {&c.Embryos, 1 << 17}} {
		if *d.size == 0 {
			*d.size = d.value
		}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// metaMap holds what must survive the agent beside the maps themselves.
const metaMap = "fl_meta"

type meta struct {
	HashSeed    uint64
	HashVersion uint64
}

// hashVersion counts the changes of hash_flow (bpf/lib/addr.h). Flows follow
// tables by that hash: with another one they would all move.
const hashVersion = 1

// Objects are the loaded programs and maps. Methods are safe for concurrent
// use except where they say otherwise.
type Objects struct {
	cfg      Config
	progs    map[string]*ebpf.Program
	maps     map[string]*ebpf.Map
	slots    *ebpf.Memory
	backends *ebpf.Memory
	filter   *ebpf.Memory
	loads    *ebpf.Memory
	epoch    *ebpf.Memory
	mend     *ebpf.Memory
	embryos  *ebpf.Memory
	vips     *ebpf.Memory
	fronts   fronts
	trace    traceVars
	seed     uint64

	fragsMu sync.Mutex
	listens listens
}

// Open loads the programs over the maps pinned in cfg.PinDir, and makes the
// maps that are missing. What is pinned in another layout is an error that
// says what to do. Close releases it; pins stay.
func Open(cfg Config) (*Objects, error) {
	cfg.defaults()
	// Before Linux 5.11 maps count against the limit of locked memory, 64 KiB.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w: CAP_SYS_RESOURCE is needed before Linux 5.11, or LimitMEMLOCK=infinity in the service's unit", err)
	}
	lb, err := loadLb()
	if err != nil {
		return nil, err
	}
	sock, err := loadSock()
	if err != nil {
		return nil, err
	}
	listen, err := loadListen()
	if err != nil {
		return nil, err
	}
	ops, err := loadOps()
	if err != nil {
		return nil, err
	}
	o := &Objects{cfg: cfg, progs: map[string]*ebpf.Program{}, maps: map[string]*ebpf.Map{}}
	if err := o.load(lb, sock, listen, ops); err != nil {
		_ = o.Close()
		return nil, err
	}
	return o, nil
}

func (o *Objects) load(lb, sock, listen, ops *ebpf.CollectionSpec) error {
	m, err := o.openMeta()
	if err != nil {
		return err
	}
	o.seed = m.HashSeed
	if err := o.configure(lb); err != nil {
		return err
	}
	cookie, err := NetnsCookie()
	if err != nil {
		cookie = 0 // the hooks take it for the machine's; doctor says so
	}
	if err := sock.Variables[sockVarNetnsCookie].Set(cookie); err != nil {
		return fmt.Errorf("set namespace cookie: %w", err)
	}
	retval := ProbeSetRetval() == nil
	if err := sock.Variables[sockVarHasSetRetval].Set(retval); err != nil {
		return fmt.Errorf("set feature switch: %w", err)
	}
	if err := ops.Variables[opsVarHasNetnsCookie].Set(probeListenCookie()); err != nil {
		return fmt.Errorf("set feature switch: %w", err)
	}
	if err := o.loadSpec(lb); err != nil {
		return err
	}
	if err := o.loadSpec(sock); err != nil {
		return err
	}
	if err := o.loadSpec(listen); err != nil {
		return err
	}
	if err := o.loadSpec(ops); err != nil {
		return err
	}
	if err := o.mapIntoMemory(); err != nil {
		return err
	}
	// The programs of an earlier version may have left some there, and did not say so.
	if err := o.useEmbryos(); err != nil {
		return err
	}
	return o.unpinFormer()
}

// configure sets the sizes of maps and what the packet programs are compiled
// not to know.
func (o *Objects) configure(lb *ebpf.CollectionSpec) error {
	for name, size := range map[string]uint32{
		lbMapFlServices: o.cfg.Services, lbMapFlSvcStats: o.cfg.Services,
		lbMapFlBackends: o.cfg.Backends, lbMapFlSlots: (o.cfg.Slots + slotsPerLine - 1) / slotsPerLine,
		lbMapFlLoad: o.cfg.Backends, lbMapFlFlows: o.cfg.Flows, lbMapFlEmbryos: o.cfg.Embryos,
		lbMapFlHandshakes: handshakeLines(o.cfg.Embryos), lbMapFlRecent: recentLines(o.cfg.Flows),
		lbMapFlVips: 2 * o.cfg.Services, lbMapFlFronts: frontLines(o.cfg.Services),
	} {
		lb.Maps[name].MaxEntries = size
	}
	lines := map[string]uint32{}
	for _, name := range []string{lbMapFlHandshakes, lbMapFlRecent, lbMapFlFronts} {
		if o.cfg.PinDir != "" {
			if err := adoptSize(lb.Maps[name], filepath.Join(o.cfg.PinDir, name)); err != nil {
				return err
			}
		}
		lines[name] = lb.Maps[name].MaxEntries
	}
	for name, value := range map[string]any{
		lbVarHashSeed:      o.seed,
		lbVarHandshakeMask: lines[lbMapFlHandshakes] - 1,
		lbVarRecentMask:    lines[lbMapFlRecent] - 1,
		lbVarRecentLife:    recentLife(),
		lbVarFrontShift:    frontShift(lines[lbMapFlFronts]),
		lbVarHasCsumIpv6:   probeCsumIPv6(),
		lbVarHasCheckMtu:   !o.cfg.WithoutCheckMTU && ProbeCheckMTU() == nil,
	} {
		if err := lb.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// mapIntoMemory makes the large arrays readable and writable without a call each.
func (o *Objects) mapIntoMemory() (err error) {
	for _, m := range []struct {
		memory **ebpf.Memory
		name   string
	}{
		{&o.slots, lbMapFlSlots},
		{&o.backends, lbMapFlBackends},
		{&o.loads, lbMapFlLoad},
		{&o.filter, lbMapFlFilter},
		{&o.epoch, lbMapFlEpoch},
		{&o.mend, lbMapFlMend},
		{&o.embryos, lbMapFlEmbryosUsed},
		{&o.vips, lbMapFlVips},
		{&o.fronts.memory, lbMapFlFronts},
	} {
		if *m.memory, err = o.maps[m.name].Memory(); err != nil {
			return fmt.Errorf("map %s into memory: %w", m.name, err)
		}
	}
	o.fronts.shift, o.fronts.rests = frontShift(o.maps[lbMapFlFronts].MaxEntries()), map[frontPlace]time.Time{}
	return nil
}

// loadSpec loads one object; maps that are open already are shared with it.
func (o *Objects) loadSpec(spec *ebpf.CollectionSpec) error {
	opts := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}}
	for name, ms := range spec.Maps {
		if m, ok := o.maps[name]; ok {
			opts.MapReplacements[name] = m
			ms.MaxEntries = m.MaxEntries()
			continue
		}
		if o.cfg.PinDir == "" || !keepsOver(name) {
			continue
		}
		ms.Pinning = ebpf.PinByName
		opts.Maps.PinPath = o.cfg.PinDir
		if err := adoptSize(ms, filepath.Join(o.cfg.PinDir, name)); err != nil {
			return err
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return loadError(err)
	}
	defer coll.Close()
	if o.trace.on == nil {
		o.trace.take(coll.Variables)
	}
	for name := range coll.Maps {
		if _, ok := o.maps[name]; !ok && (isOurs(name) || name == traceData) { // .rodata belongs to its object alone
			o.maps[name] = coll.DetachMap(name)
		}
	}
	for name := range coll.Programs {
		prog := coll.DetachProgram(name)
		o.progs[name] = prog
		if err := o.pinProgram(name, prog); err != nil {
			return err
		}
	}
	return nil
}

// traceData holds the variables of bpf/lib/trace.h (TRACE_DATA).
const traceData = ".data.trace"

// isOurs tells a map of bpf/lib/maps.h from the sections of an object.
func isOurs(name string) bool { return strings.HasPrefix(name, "fl_") }

// keepsOver tells whether a map's content outlives the agent.
func keepsOver(name string) bool {
	return isOurs(name) && name != lbMapFlScratch && name != lbMapFlClock && name != listenMapFlListeners && name != opsMapFlListens && !strings.HasPrefix(name, "fl_trace")
}

// adoptSize lets a pinned map keep the size it was made with.
func adoptSize(ms *ebpf.MapSpec, path string) error {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pinned map %s: %w", path, err)
	}
	defer m.Close()
	ms.MaxEntries = m.MaxEntries()
	if err := ms.Compatible(m); err != nil {
		return fmt.Errorf("adopt pinned map %s: %w: it was made by another version; run \"fairlead detach\" once", path, err)
	}
	return nil
}

func (o *Objects) pinProgram(name string, prog *ebpf.Program) error {
	if o.cfg.PinDir == "" {
		return nil
	}
	path := filepath.Join(o.cfg.PinDir, "prog_"+name)
	for tries := 0; ; tries++ {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("replace pinned program: %w", err)
		}
		err := prog.Pin(path)
		if errors.Is(err, fs.ErrExist) && tries < 100 {
			continue // another agent that wants to take over was faster; the last one is right
		}
		if err != nil {
			return fmt.Errorf("pin program %s: %w", path, err)
		}
		return nil
	}
}

// openMeta opens or makes the meta map and its seed.
func (o *Objects) openMeta() (meta, error) {
	spec := &ebpf.MapSpec{Name: metaMap, Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1}
	opts := ebpf.MapOptions{}
	if o.cfg.PinDir != "" {
		spec.Pinning, opts.PinPath = ebpf.PinByName, o.cfg.PinDir
	}
	m, err := ebpf.NewMapWithOptions(spec, opts)
	if err != nil {
		return meta{}, loadError(err)
	}
	o.maps[metaMap] = m
	var v meta
	if err := m.Lookup(uint32(0), &v); err != nil {
		return meta{}, fmt.Errorf("read meta map: %w", err)
	}
	if v.HashSeed != 0 && v.HashVersion != hashVersion {
		return meta{}, fmt.Errorf("adopt pinned maps: they were made for flow hash %d, this program has %d; run \"fairlead detach\" once",
			v.HashVersion, hashVersion)
	}
	v.HashVersion = hashVersion
	switch {
	case o.cfg.HashSeed != 0:
		v.HashSeed = o.cfg.HashSeed
	case v.HashSeed == 0:
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return meta{}, fmt.Errorf("make hash seed: %w", err)
		}
		v.HashSeed = binary.NativeEndian.Uint64(b[:]) | 1
	}
	if err := m.Put(uint32(0), v); err != nil {
		return meta{}, fmt.Errorf("write meta map: %w", err)
	}
	return v, nil
}

// Close releases programs and maps; what is pinned or attached stays.
func (o *Objects) Close() error {
	var errs []error
	for _, p := range o.progs {
		errs = append(errs, p.Close())
	}
	for _, m := range o.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

func loadError(err error) error {
	var ve *ebpf.VerifierError
	switch {
	case errors.As(err, &ve):
		return fmt.Errorf("the kernel's verifier refuses a program: %w (fairlead doctor tells what this kernel lacks)", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: CAP_BPF and CAP_NET_ADMIN are needed; run as root", err)
	}
	return err
}
