// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/fairlead-lb/fairlead/bench/harness"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// first is a backend and where it is.
type first struct {
	id   uint32
	addr netip.Addr
}

// live writes the entries that established flows of the traffic's tuples have:
// the replies' for services that follow their table, both for the others. Real
// handshakes of half a million clients at once would not fit into the table of
// unconfirmed flows.
func (w *world) live(t harness.Traffic) error {
	services := map[bpf.ServiceKey]bpf.Service{}
	err := w.objects.EachService(func(k bpf.ServiceKey, s bpf.Service) bool {
		services[k] = s
		return true
	})
	if err != nil {
		return err
	}
	of := map[uint32]first{} // the first backend of each service id
	err = w.objects.EachBackend(func(id uint32, b bpf.Backend) bool {
		if _, ok := of[b.Service]; !ok {
			of[b.Service] = first{id, b.Addr}
		}
		return true
	})
	if err != nil {
		return err
	}
	jiffies, _, err := w.objects.Clock()
	if err != nil {
		return err
	}
	proto := t.Frames[0].Proto()
	for i := range t.Tuples {
		// The same arithmetic as in harness.c.
		n := uint64(uint32(i)*2654435761) * uint64(max(t.Services, 1)) >> 32
		client := netip.AddrPortFrom(plus(t.Clients, int(i>>15)), uint16(1024+i&0x7fff))
		vip := netip.AddrPortFrom(plus(t.VIP, int(n)), servicePort)
		svc, ok := services[bpf.ServiceKey{VIP: vip.Addr(), Port: servicePort, Proto: proto}]
		if !ok {
			return fmt.Errorf("no service at %s", vip)
		}
		id := of[svc.ID].id
		back := netip.AddrPortFrom(of[svc.ID].addr, containerPort)
		request := bpf.FlowKey{Src: client, Dst: vip, Proto: proto}
		there := bpf.Flow{Src: client, Dst: back, Backend: id, Service: svc.ID, Seen: uint32(jiffies)}
		if svc.NAT {
			if err := w.takeSource(&there, i); err != nil {
				return err
			}
		}
		answer := there
		answer.Src, answer.Dst, answer.Flags = vip, client, there.Flags|bpf.FlowReply
		if !svc.Flows {
			answer.Flags |= bpf.FlowSingle
		} else if err := w.objects.PutFlow(request, there, true); err != nil {
			return err
		}
		if err := w.objects.PutFlow(there.Twin(request.Proto), answer, true); err != nil {
			return err
		}
	}
	return nil
}

// takeSource gives the ith flow its source: for every client one with the same
// ports, so that the harness finds the replies' tuples as it does the requests'.
func (w *world) takeSource(f *bpf.Flow, i uint64) error {
	f.Flags, f.Source = bpf.FlowNAT, uint16(i>>15)
	f.Src = netip.AddrPortFrom(plus(sources4, int(f.Source)), f.Src.Port())
	if i&0x7fff != 0 {
		return nil
	}
	return w.objects.PutSource(f.Source, f.Src.Addr())
}
