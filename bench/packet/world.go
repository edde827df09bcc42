// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/bench/harness"
	"github.com/fairlead-lb/fairlead/pkg/attach"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// perService is how many backends a service has, and slotsPerService at least
// what a table for them takes.
const perService, slotsPerService = 10, 1200

// world is a data plane with services and nothing attached, and the harness
// that sends it packets.
type world struct {
	objects *bpf.Objects
	target  *dataplane.Target
	h       *harness.Harness
}

// openWorld makes the maps and fills them through a Target; with direct it
// finds most of its work done by seed.
func openWorld(wire uint32, sizes bpf.Config, state *model.State, direct bool) (*world, error) {
	objects, err := bpf.Open(sizes)
	if err != nil {
		return nil, err
	}
	w := &world{objects: objects}
	if err := w.fill(wire, state, direct); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) fill(wire uint32, state *model.State, direct bool) (err error) {
	if err := w.objects.SetIface(wire, 1, attach.IfaceXDPXmit, 1500); err != nil {
		return err
	}
	if direct {
		if err := seed(w.objects, state, onWire{wire}); err != nil {
			return err
		}
	}
	if w.target, err = dataplane.New(dataplane.Config{Maps: w.objects, Hops: onWire{wire}}); err != nil {
		return err
	}
	if err := w.target.Apply(context.Background(), state); err != nil {
		return err
	}
	w.h, err = harness.Open(wire, w.objects.Programs().XDP)
	return err
}

func (w *world) close() error {
	var err error
	if w.h != nil {
		err = w.h.Close()
	}
	return errors.Join(err, w.objects.Close())
}

// counts reads the packet counters by reason.
func (w *world) counts() (map[string]uint64, error) {
	out := map[string]uint64{}
	err := w.objects.EachPacketCount(func(_ uint32, reason int, n uint64) { out[bpf.Reasons[reason].Name] += n })
	return out, err
}

// sizesFor is a configuration for n services of perService backends and a
// million entries more than half a million flows need: LRU maps evict before
// they are full.
func sizesFor(n int) bpf.Config {
	return bpf.Config{
		Services: uint32(max(256, 3*n)),
		Backends: uint32(max(256, perService*n+perService)),
		Slots:    uint32(max(1<<16, slotsPerService*n)),
		Flows:    1 << 21,
	}
}

// family says which addresses services get.
type family int

const (
	v4 family = iota
	v6
)

// stateOf has n services with VIPs one after the other and backends of their
// own, perBackend each.
func stateOf(n, backends int, f family) *model.State {
	s := &model.State{Generation: 1, Services: make([]*model.Service, 0, n)}
	s.Settings.Node.Sources = []netip.Addr{sources4} // of mode full-nat; live adds more
	for i := range n {
		svc := &model.Service{
			Name:  model.ServiceName{Project: fmt.Sprintf("svc%06d", i), User: "bench"},
			Mode:  model.ModeNAT,
			Drain: time.Minute,
			Ports: []model.Port{{Service: servicePort, Container: containerPort, Protocol: model.TCP}},
		}
		if f == v6 {
			svc.VIP6 = plus(vips6, i)
		} else {
			svc.VIP4 = plus(vips4, i)
		}
		for k := range backends {
			b := model.Backend{Weight: 1}
			if f == v6 {
				b.Addr6 = plus(netip.MustParseAddr("fd00:1::"), i*backends+k+1)
			} else {
				b.Addr4 = backend4(i*backends + k)
			}
			svc.Backends = append(svc.Backends, b)
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// backend4 is the nth backend's address, out of 172.16/12.
func backend4(n int) netip.Addr { return plus(netip.MustParseAddr("172.16.0.0"), n) }

func plus(a netip.Addr, n int) netip.Addr {
	b := a.AsSlice()
	at := len(b) - 4
	binary.BigEndian.PutUint32(b[at:], binary.BigEndian.Uint32(b[at:])+uint32(n))
	out, _ := netip.AddrFromSlice(b)
	return out
}
