// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Programs are the loaded programs by where they are attached. They belong to
// the Objects and end with them.
type Programs struct {
	XDP *ebpf.Program
	TC  *ebpf.Program
	// XDPFrags is Objects.XDPFrags.
	XDPFrags func() (*ebpf.Program, error)
	Cgroup   map[ebpf.AttachType]*ebpf.Program
}

// Programs lists what is to be attached.
func (o *Objects) Programs() Programs {
	return Programs{
		XDP: o.progs[lbProgFlXdp],
		TC:  o.progs[lbProgFlTc],

		XDPFrags: o.XDPFrags,
		Cgroup: map[ebpf.AttachType]*ebpf.Program{
			ebpf.AttachCGroupInet4Connect:     o.progs[sockProgFlConnect4],
			ebpf.AttachCGroupInet6Connect:     o.progs[sockProgFlConnect6],
			ebpf.AttachCGroupUDP4Sendmsg:      o.progs[sockProgFlSendmsg4],
			ebpf.AttachCGroupUDP6Sendmsg:      o.progs[sockProgFlSendmsg6],
			ebpf.AttachCGroupUDP4Recvmsg:      o.progs[sockProgFlRecvmsg4],
			ebpf.AttachCGroupUDP6Recvmsg:      o.progs[sockProgFlRecvmsg6],
			ebpf.AttachCgroupInet4GetPeername: o.progs[sockProgFlGetpeername4],
			ebpf.AttachCgroupInet6GetPeername: o.progs[sockProgFlGetpeername6],
		},
	}
}

// Iface reads what SetIface wrote; slot 0 if it wrote nothing.
func (o *Objects) Iface(ifindex uint32) (slot, flags uint8, err error) {
	var v lbIface
	if err := o.maps[lbMapFlIfaces].Lookup(ifindex&0xffff, &v); err != nil {
		return 0, 0, fmt.Errorf("read interface %d: %w", ifindex, err)
	}
	if v.Ifindex != ifindex {
		return 0, 0, nil
	}
	return v.Slot, v.Flags, nil
}
