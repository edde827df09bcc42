// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// fragsProg is where XDPFrags is kept, and its pin.
const fragsProg = lbProgFlXdp + "_frags"

// XDPFrags is the XDP program for interfaces whose frames do not fit one buffer
// (jumbo frames; Linux 5.18). It is loaded when it is first asked for, and shares
// all maps with the other one. It leaves frames of several buffers to the TC
// program. In generic mode Linux 6.18 mangles such frames: do not attach it there.
func (o *Objects) XDPFrags() (*ebpf.Program, error) {
	o.fragsMu.Lock()
	defer o.fragsMu.Unlock()
	if p := o.progs[fragsProg]; p != nil {
		return p, nil
	}
	if err := features.HaveProgramHelper(ebpf.XDP, asm.FnXdpGetBuffLen); err != nil {
		return nil, fmt.Errorf("frames of several buffers need Linux 5.18: %w", err)
	}
	lb, err := loadLb()
	if err != nil {
		return nil, err
	}
	if err := o.configure(lb); err != nil {
		return nil, err
	}
	if err := lb.Variables[lbVarHasXdpFrags].Set(true); err != nil {
		return nil, fmt.Errorf("set feature switch: %w", err)
	}
	prog := lb.Programs[lbProgFlXdp]
	prog.Flags |= unix.BPF_F_XDP_HAS_FRAGS
	lb.Programs = map[string]*ebpf.ProgramSpec{fragsProg: prog}
	if err := o.loadSpec(lb); err != nil {
		return nil, err
	}
	return o.progs[fragsProg], nil
}
