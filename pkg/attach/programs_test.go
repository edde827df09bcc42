// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// programName is that of all programs of this test process: others may run
// theirs on the same machine.
var programName = fmt.Sprintf("flt%d", os.Getpid())

// The port whose datagrams the test programs count.
const countedPort = 9999

// counter is the value a test program adds up.
type counter struct{ *ebpf.Map }

func newCounter(t testing.TB) counter {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "fltest_count", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return counter{m}
}

func (c counter) value(t testing.TB) uint64 {
	t.Helper()
	var v uint64
	if err := c.Lookup(uint32(0), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// increment adds 1 to the counter and ends with ret.
func (c counter) increment(ret int32) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, c.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, ret).WithSymbol("out"),
		asm.Return(),
	}
}

// tcProgram counts datagrams and passes everything on (TC_ACT_UNSPEC).
func tcProgram(t testing.TB, c counter) *ebpf.Program {
	t.Helper()
	return load(t, ebpf.SchedCLS, append(asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadAbs(12, asm.Half),
		asm.JNE.Imm(asm.R0, unix.ETH_P_IP, "out"),
		asm.LoadAbs(23, asm.Byte),
		asm.JNE.Imm(asm.R0, unix.IPPROTO_UDP, "out"),
		asm.LoadAbs(36, asm.Half),
		asm.JNE.Imm(asm.R0, countedPort, "out"),
	}, c.increment(-1)...))
}

// xdpProgram counts datagrams and passes everything on (XDP_PASS).
func xdpProgram(t testing.TB, c counter) *ebpf.Program {
	t.Helper()
	return load(t, ebpf.XDP, append(asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, 42),
		asm.JGT.Reg(asm.R4, asm.R3, "out"),
		asm.LoadMem(asm.R0, asm.R2, 36, asm.Half),
		asm.HostTo(asm.BE, asm.R0, asm.Half),
		asm.JNE.Imm(asm.R0, countedPort, "out"),
		asm.LoadMem(asm.R0, asm.R2, 23, asm.Byte),
		asm.JNE.Imm(asm.R0, unix.IPPROTO_UDP, "out"),
	}, c.increment(2)...))
}

// hook counts calls of a cgroup hook and lets them pass.
func hook(t testing.TB, c counter, at ebpf.AttachType) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: programName, Type: ebpf.CGroupSockAddr, AttachType: at, License: "GPL", Instructions: c.increment(1),
	})
	if err != nil {
		t.Fatalf("load hook: %v", err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func load(t testing.TB, typ ebpf.ProgramType, ins asm.Instructions) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: programName, Type: typ, License: "GPL", Instructions: ins})
	if err != nil {
		t.Fatalf("load %s program: %v", typ, err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}
