// SPDX-License-Identifier: Apache-2.0

// Package harness measures what one packet costs in an XDP or TC program: the
// loaded program itself, by BPF_PROG_TEST_RUN, each time with a fresh frame of
// the next of N tuples (bench/bpf/harness.c says how). It knows nothing of what
// the program does.
//
// What is measured is the program's own work with its packet in the first-level
// cache. A verdict costs nothing there: nobody sends what XDP_TX or a redirect
// returns.
package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

//go:generate go tool -modfile=../../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -Wall -Wextra -Werror -Wpadded -mcpu=v3 -nostdlibinc -isystem ../../bpf/include" -target bpfel bench ../bpf/harness.c

// Size is the length of every frame in bytes: enough for TCP over IPv6.
const Size = 78

// Kind says which fields of a frame the harness fills in. They are zero in the
// frames given to it.
type Kind uint32

// Kinds (enum kind of harness.c).
const (
	Request4 Kind = iota // source address and port, destination address
	Request6             // the same; of the addresses the last four bytes
	Reply4               // destination address and port
	Echo4                // both addresses and the ICMP identifier
)

// Endless as Traffic.Tuples: no tuple is used twice.
const Endless = 1 << 39

// Frame is a packet of Size bytes without its tuple.
type Frame struct {
	Kind  Kind
	Bytes []byte
}

// Proto is the transport protocol, of IPv4 or IPv6 without extension headers.
func (f Frame) Proto() uint8 {
	if f.Bytes[14]>>4 == 6 {
		return f.Bytes[20]
	}
	return f.Bytes[23]
}

// maxFrames is how many a tuple may have (FRAMES of harness.c).
const maxFrames = 8

// Traffic is what the runs of a measurement send.
type Traffic struct {
	Frames   []Frame    // 1 to 8, sent one after the other for each tuple
	Tuples   uint64     // a power of two; visited in no order, each once in Tuples turns
	Clients  netip.Addr // the first client address; each has 32 768 ports
	VIP      netip.Addr // the first of Services addresses
	Services int        // default 1
}

// Harness holds the programs. It belongs to one thread: the caller locks its
// goroutine to it and pins it to a CPU, because tuples are counted per CPU.
type Harness struct {
	objs    benchObjects
	ifindex uint32
}

// Open loads the harness for the programs of one object. ifindex is the
// interface packets seem to come from. Close releases it.
func Open(ifindex uint32, xdp *ebpf.Program) (*Harness, error) {
	h, err := open(ifindex, 0)
	if err != nil {
		return nil, err
	}
	// Tail calls only join programs of one kind: all of them take fragments, or none.
	err = h.objs.BenchNextXdp.Put(uint32(0), xdp)
	if errors.Is(err, unix.EINVAL) {
		_ = h.Close()
		if h, err = open(ifindex, unix.BPF_F_XDP_HAS_FRAGS); err != nil {
			return nil, err
		}
		err = h.objs.BenchNextXdp.Put(uint32(0), xdp)
	}
	if err != nil {
		_ = h.Close()
		return nil, fmt.Errorf("chain %s behind the harness: %w", xdp, err)
	}
	return h, nil
}

func open(ifindex, xdpFlags uint32) (*Harness, error) {
	spec, err := loadBench()
	if err != nil {
		return nil, err
	}
	for _, p := range spec.Programs {
		if p.Type == ebpf.XDP {
			p.Flags |= xdpFlags
		}
	}
	h := &Harness{ifindex: ifindex}
	if err := spec.LoadAndAssign(&h.objs, nil); err != nil {
		return nil, fmt.Errorf("load the harness: %w", err)
	}
	return h, nil
}

// Close releases the programs and maps.
func (h *Harness) Close() error { return h.objs.Close() }

// Peers are the programs that others are compared with.
type Peers struct {
	BareXDP, BareTC *ebpf.Program // nothing but XDP_TX, bpf_redirect
	TrimXDP, TrimTC *ebpf.Program // the same, and the frame is cut by 26 bytes
	Hash            *ebpf.Program // parse and look up in a hash; put in what is missing
	LRU             *ebpf.Program // the same in an LRU hash of a million entries
	LRUNew          *ebpf.Program // the same in another of 128 Ki
}

// Peers lists them. They end with the harness.
func (h *Harness) Peers() Peers {
	o := &h.objs
	return Peers{
		BareXDP: o.BareXdp, BareTC: o.BareTc, TrimXDP: o.TrimXdp, TrimTC: o.TrimTc,
		Hash: o.HashXdp, LRU: o.LruXdp, LRUNew: o.LruNewXdp,
	}
}

// Run sends n packets through a program behind the harness and tells the CPU
// time the whole took: the test run's loop, the harness, the program.
func (h *Harness) Run(prog *ebpf.Program, t Traffic, n int) (time.Duration, error) {
	first, err := h.chain(prog, t)
	if err != nil {
		return 0, err
	}
	return h.run(first, t.Frames[0].Bytes, n)
}

// chain puts a program behind the harness and returns the harness' own.
func (h *Harness) chain(prog *ebpf.Program, t Traffic) (*ebpf.Program, error) {
	first, next := h.objs.BenchXdp, h.objs.BenchNextXdp
	if prog.Type() == ebpf.SchedCLS {
		first, next = h.objs.BenchTc, h.objs.BenchNextTc
	}
	if err := next.Put(uint32(0), prog); err != nil {
		return nil, fmt.Errorf("chain %s behind the harness: %w", prog, err)
	}
	return first, h.plan(t)
}

// plan tells the harness what to send from its next run on.
func (h *Harness) plan(t Traffic) error {
	if bits.OnesCount64(t.Tuples) != 1 || len(t.Frames) == 0 || len(t.Frames) > maxFrames {
		return fmt.Errorf("plan traffic: %d tuples (want a power of two) of %d frames (want 1 to %d)", t.Tuples, len(t.Frames), maxFrames)
	}
	p := benchPlan{
		Mask: t.Tuples - 1, Services: uint32(max(t.Services, 1)), Frames: uint32(len(t.Frames)),
		Dst: lastWord(t.VIP), Src: lastWord(t.Clients),
	}
	for i, f := range t.Frames {
		if len(f.Bytes) != Size {
			return fmt.Errorf("plan traffic: frame %d has %d bytes, want %d", i, len(f.Bytes), Size)
		}
		to := &p.Frame[i]
		to.Mac, to.Kind = binary.NativeEndian.Uint64(f.Bytes), uint16(f.Kind)
		to.MacEnd, to.Type = binary.NativeEndian.Uint32(f.Bytes[8:]), binary.NativeEndian.Uint16(f.Bytes[12:])
		for w := range to.L3 {
			to.L3[w] = binary.NativeEndian.Uint64(f.Bytes[14+8*w:])
		}
	}
	if err := h.objs.BenchNow.Set(p); err != nil {
		return fmt.Errorf("plan traffic: %w", err)
	}
	return nil
}

// lastWord is the last four bytes of an address, in host order.
func lastWord(a netip.Addr) uint32 {
	if !a.IsValid() {
		return 0
	}
	b := a.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}

// Plain runs a program n times without the harness.
func (h *Harness) Plain(prog *ebpf.Program, n int) (time.Duration, error) {
	return h.run(prog, make([]byte, Size), n)
}

func (h *Harness) run(prog *ebpf.Program, frame []byte, n int) (time.Duration, error) {
	if n <= 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("run %s: %d runs", prog, n)
	}
	for range 10 {
		again := false
		opts := h.options(prog, frame)
		opts.Repeat = uint32(n)
		//lint:ignore SA1019 nothing else tells that the kernel began anew
		opts.Reset = func() { again = true }
		start := threadTime()
		ret, err := prog.Run(opts)
		took := threadTime() - start
		switch {
		case err != nil:
			return 0, fmt.Errorf("run %s: %w", prog, err)
		case again: // a signal came, and the kernel began anew
			continue
		case ret == 0 && prog.Type() == ebpf.XDP:
			return 0, fmt.Errorf("run %s: XDP_ABORTED: the harness could not restore the frame or call on", prog)
		}
		return took, nil
	}
	return 0, fmt.Errorf("run %s: interrupted by signals ten times", prog)
}

// Once sends n packets as Run does and returns the verdict on the last one and
// what it had become: for tests.
func (h *Harness) Once(prog *ebpf.Program, t Traffic, n int) (uint32, []byte, error) {
	first, err := h.chain(prog, t)
	if err != nil {
		return 0, nil, err
	}
	opts := h.options(first, t.Frames[0].Bytes)
	opts.Repeat, opts.DataOut = uint32(n), make([]byte, Size+256)
	ret, err := first.Run(opts)
	return ret, opts.DataOut, err
}

// options is a context for the kind of program: struct xdp_md with
// ingress_ifindex, struct __sk_buff with ifindex. Of the frame only the
// protocol matters: a packet of a TC program is made for it.
func (h *Harness) options(prog *ebpf.Program, frame []byte) *ebpf.RunOptions {
	opts := &ebpf.RunOptions{Data: frame}
	ctx := make([]byte, 24)
	if prog.Type() == ebpf.XDP {
		binary.NativeEndian.PutUint32(ctx[4:], Size)
		binary.NativeEndian.PutUint32(ctx[12:], h.ifindex)
	} else {
		ctx = make([]byte, 192)
		binary.NativeEndian.PutUint32(ctx[40:], h.ifindex)
	}
	opts.Context = ctx
	return opts
}

// threadTime is the CPU time of this thread: what others on the machine take
// is not in it.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
