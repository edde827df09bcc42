// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// csumIPv6 is BPF_F_IPV6 of bpf_l4_csum_replace (Linux 6.16).
const csumIPv6 = 1 << 7

// probeCsumIPv6 asks the kernel by trying: an unknown flag is -EINVAL.
func probeCsumIPv6() bool {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_probe_csum", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, 40),
			asm.Mov.Imm(asm.R3, 0),
			asm.Mov.Imm(asm.R4, 1),
			asm.Mov.Imm(asm.R5, 1<<4|csumIPv6), // BPF_F_PSEUDO_HDR
			asm.FnL4CsumReplace.Call(),
			asm.Return(),
		},
	})
	if err != nil {
		return false
	}
	defer prog.Close()
	ret, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 64), DataOut: make([]byte, 128)})
	return err == nil && ret == 0
}

// ProbeSetRetval asks whether a connect hook can say why it refuses
// (bpf_set_retval, Linux 5.18), by loading one that does. The library's probe
// for helpers takes Linux 7.3 for a kernel without it.
func ProbeSetRetval() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_probe_retval", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, -int32(unix.ECONNREFUSED)),
			asm.FnSetRetval.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		return err
	}
	return prog.Close()
}

// ProbeCheckMTU asks for bpf_check_mtu (Linux 5.12) in the same way.
func ProbeCheckMTU() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_probe_mtu", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, 0),
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -4),
			asm.Mov.Imm(asm.R4, 0),
			asm.Mov.Imm(asm.R5, 0),
			asm.FnCheckMtu.Call(),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		return err
	}
	return prog.Close()
}

// probeListenCookie asks for bpf_get_netns_cookie where listens are seen (Linux
// 5.15), in the same way.
func probeListenCookie() bool {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "fl_probe_ops", Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps, License: "GPL",
		Instructions: asm.Instructions{
			asm.FnGetNetnsCookie.Call(),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
		},
	})
	if err != nil {
		return false
	}
	return prog.Close() == nil
}
