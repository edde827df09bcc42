// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

func newHarness(t *testing.T) *Harness {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("bench/harness loads BPF programs: run it as root")
		}
		t.Skip("it loads BPF programs and needs root")
	}
	// The thread ends with the test, and with it what it is pinned to.
	runtime.LockOSThread()
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		t.Fatal(err)
	}
	first := 0
	for !cpus.IsSet(first) {
		first++
	}
	cpus.Zero()
	cpus.Set(first)
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		t.Fatal(err)
	}
	h, err := open(1, 0) // lo
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// template is a frame in which every byte can be told from its neighbours, but
// for the fields of a Request4, which are zero.
func template() []byte {
	f := make([]byte, Size)
	for i := range f {
		f[i] = byte(i + 1)
	}
	f[12], f[13] = 8, 0
	clear(f[26:36])
	return f
}

func request(tuples uint64) Traffic {
	return Traffic{
		Frames: []Frame{{Request4, template()}}, Tuples: tuples,
		Clients: netip.MustParseAddr("10.0.0.0"), VIP: netip.MustParseAddr("198.18.0.5"),
	}
}

// Whatever a program does to a frame, the next run has it as it was.
func TestEveryRunHasAFreshFrame(t *testing.T) {
	h := newHarness(t)
	want := template()
	copy(want[26:], []byte{10, 0, 0, 0, 198, 18, 0, 5, 4, 0})
	p := h.Peers()
	for _, prog := range []*ebpf.Program{p.BareXDP, p.BareTC} {
		_, got, err := h.Once(prog, request(1), 1)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s got\n%x\nwant\n%x", prog, got, want)
		}
	}
	for _, prog := range []*ebpf.Program{p.TrimXDP, p.TrimTC, scribbler(t, ebpf.XDP), scribbler(t, ebpf.SchedCLS)} {
		_, once, err := h.Once(prog, request(1), 1)
		if err != nil {
			t.Fatal(err)
		}
		_, often, err := h.Once(prog, request(1), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(once, want) || !bytes.Equal(once, often) {
			t.Errorf("%s changed the frame to\n%x\nand the thousandth one to\n%x", prog, once, often)
		}
	}
}

// Every tuple comes once in a period, and its frames one after the other.
func TestTuplesAreVisitedOnce(t *testing.T) {
	h := newHarness(t)
	const n = 1 << 12
	tr := request(n)
	tr.Services = 3
	second := template()
	second[47] ^= 0xff
	tr.Frames = append(tr.Frames, Frame{Request4, second})
	seen, vips := map[string]int{}, map[byte]bool{}
	for i := range 2 * n {
		_, f, err := h.Once(h.Peers().BareXDP, tr, 1)
		if err != nil {
			t.Fatal(err)
		}
		if f[47] != tr.Frames[i%2].Bytes[47] {
			t.Fatalf("packet %d is not of frame %d", i, i%2)
		}
		port := binary.BigEndian.Uint16(f[34:])
		seen[fmt.Sprint(f[26:30], port)]++
		vips[f[33]] = true
	}
	if len(seen) != n {
		t.Errorf("%d tuples, want %d", len(seen), n)
	}
	for tuple, times := range seen {
		if times != 2 {
			t.Errorf("tuple %s came %d times, want one for each frame", tuple, times)
		}
	}
	if len(vips) != 3 || !vips[5] || !vips[6] || !vips[7] {
		t.Errorf("last bytes of the VIPs are %v, want 5, 6 and 7", vips)
	}
}

// A known flow of the peers is found, and not put in again.
func TestPeersRemember(t *testing.T) {
	h := newHarness(t)
	tr := request(64)
	f := tr.Frames[0].Bytes
	f[14], f[23] = 0x45, 6
	for _, m := range []struct {
		prog *ebpf.Program
		m    *ebpf.Map
	}{{h.Peers().Hash, h.objs.BenchHash}, {h.Peers().LRU, h.objs.BenchLru}, {h.Peers().LRUNew, h.objs.BenchLruNew}} {
		if _, err := h.Run(m.prog, tr, 640); err != nil {
			t.Fatal(err)
		}
		var (
			key     benchTuple
			e       benchEntry
			entries int
		)
		it := m.m.Iterate()
		for it.Next(&key, &e) {
			entries++
			if e.Packets != 10 {
				t.Errorf("%s: a flow had %d packets, want 10", m.prog, e.Packets)
			}
		}
		if entries != 64 {
			t.Errorf("%s: %d entries, want 64", m.prog, entries)
		}
	}
}

func TestPlanIsChecked(t *testing.T) {
	h := newHarness(t)
	short := request(1)
	short.Frames[0].Bytes = make([]byte, 60)
	for name, tr := range map[string]Traffic{"tuples no power of two": request(3), "no frame": {Tuples: 1}, "short frame": short} {
		if _, err := h.Run(h.Peers().BareXDP, tr, 1); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// scribbler is a program that adds one to words all over the frame.
func scribbler(t *testing.T, kind ebpf.ProgramType) *ebpf.Program {
	t.Helper()
	data, end, at := int16(0), int16(4), ebpf.AttachXDP // struct xdp_md
	if kind == ebpf.SchedCLS {
		data, end, at = 76, 80, ebpf.AttachNone // struct __sk_buff
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "scribbler", Type: kind, AttachType: at, License: "GPL",
		Instructions: slices.Concat(asm.Instructions{
			asm.LoadMem(asm.R2, asm.R1, data, asm.Word),
			asm.LoadMem(asm.R3, asm.R1, end, asm.Word),
			asm.Mov.Reg(asm.R4, asm.R2),
			asm.Add.Imm(asm.R4, Size),
			asm.Mov.Imm(asm.R0, 2),
			asm.JGT.Reg(asm.R4, asm.R3, "out"),
		}, addOne(0), addOne(22), addOne(30), addOne(Size-8), asm.Instructions{asm.Return().WithSymbol("out")}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// addOne adds one to the eight bytes at an offset of the packet in R2.
func addOne(off int16) asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R5, asm.R2, off, asm.DWord),
		asm.Add.Imm(asm.R5, 1),
		asm.StoreMem(asm.R2, off, asm.R5, asm.DWord),
	}
}
