// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/maglev"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// predict tells about how long a Target takes to fill the maps with n
// services, from two smaller fills: what grows faster than its input is taken
// to be quadratic.
func (b *bench) predict(n int) (time.Duration, error) {
	const few, more = 250, 1000
	if n <= few {
		return 0, nil
	}
	if b.fills == nil {
		for _, k := range []int{few, more} {
			best := time.Duration(math.MaxInt64)
			for range 3 { // others on the machine only make it longer
				took, err := fillTime(b.wire, k)
				if err != nil {
					return 0, err
				}
				best = min(best, took)
			}
			b.fills = append(b.fills, best)
		}
	}
	growth := 1.0
	if b.fills[1] > b.fills[0]*3/2*more/few {
		growth = 2
	}
	return time.Duration(float64(b.fills[1]) * math.Pow(float64(n)/more, growth)), nil
}

func fillTime(wire uint32, n int) (time.Duration, error) {
	objects, err := bpf.Open(sizesFor(n))
	if err != nil {
		return 0, err
	}
	defer objects.Close()
	t, err := dataplane.New(dataplane.Config{Maps: objects, Hops: onWire{wire}})
	if err != nil {
		return 0, err
	}
	state := stateOf(n, perService, v4)
	start := time.Now()
	err = t.Apply(context.Background(), state)
	return time.Since(start), err
}

// seed writes services, tables and backends of a state of IPv4 services with
// one port, where a Target takes longer than the run may. A Target that then
// gets the state adopts them and adds what is missing.
func seed(o *bpf.Objects, s *model.State, hops dataplane.Hops) error {
	const flags = bpf.BackendUsed | bpf.BackendOpen | bpf.BackendMAC | bpf.BackendXDP
	var backend, slot uint32
	for i := range s.Services {
		svc, id, port := s.Services[i], uint32(i+1), s.Services[i].Ports[0]
		first := backend
		var members []maglev.Backend
		for _, b := range svc.Backends {
			hop := hops.Lookup(b.Addr4)
			entry := bpf.Backend{
				Addr: b.Addr4, Port: port.Container, Proto: uint8(port.Protocol), Flags: flags, IfIndex: hop.IfIndex,
				DMAC: hop.MAC, SMAC: hop.SrcMAC, Service: id,
			}
			if err := o.PutBackend(backend, entry); err != nil {
				return err
			}
			members = append(members, maglev.Backend{Key: netip.AddrPortFrom(b.Addr4, port.Container).String(), Weight: b.Weight})
			backend++
		}
		slots := maglev.Table(members, maglev.Size(members))
		for k := range slots {
			slots[k] += first
		}
		if err := o.PutSlots(slot, slots); err != nil {
			return err
		}
		key := bpf.ServiceKey{VIP: svc.VIP4, Port: port.Service, Proto: uint8(port.Protocol)}
		if err := o.PutService(key, bpf.Service{ID: id, Base: slot, Len: uint32(len(slots))}); err != nil {
			return err
		}
		if err := o.PutService(bpf.ServiceKey{VIP: svc.VIP4}, bpf.Service{}); err != nil {
			return err
		}
		slot += uint32(len(slots))
	}
	return nil
}

// say prints a line that explains a figure or its absence.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.w, "\n"+format+"\n", args...) }
