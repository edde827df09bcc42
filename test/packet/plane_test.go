// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-lb/fairlead/pkg/attach"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/test/feature"
)

// Verdicts of the two kinds of program.
const (
	xdpDrop, xdpPass, xdpTX, xdpRedirect = 1, 2, 3, 4
	tcUnspec, tcShot, tcRedirect         = 0xffffffff, 2, 7
)

// plane is a data plane with nothing attached.
type plane struct {
	*testing.T
	objects *bpf.Objects
	target  *dataplane.Target
	gen     uint64
	state   *model.State // the last one
	now     time.Time    // of the data plane's clock
	// What the data plane is told of the node.
	settings   model.Settings
	nodeAddrs  []netip.Addr
	localPorts [2]uint16
	gone       map[netip.Addr]bool // addresses that nothing leads to
	counts     map[string]uint64
}

// onWire leads every address to a backend's MAC on the one wire, but for those
// that are gone.
type onWire struct{ gone map[netip.Addr]bool }

func (onWire) Track([]netip.Addr)       {}
func (onWire) Follow(_, _ []netip.Addr) {}

func (w onWire) Lookup(a netip.Addr) nexthop.Hop {
	if w.gone[a] {
		return nexthop.Hop{Addr: a, Err: "no route"}
	}
	return nexthop.Hop{
		Addr: a, IfIndex: wireIndex, IfName: "wire0", MAC: [6]byte(backMAC), SrcMAC: [6]byte(nodeMAC), XDPXmit: true,
	}
}

var small = bpf.Config{Services: 256, Backends: 256, Slots: 1 << 16, Flows: 1 << 12, Embryos: 1 << 12, HashSeed: 7}

func newPlane(t *testing.T) *plane {
	t.Helper()
	return newSizedPlane(t, small)
}

func newSizedPlane(t *testing.T, cfg bpf.Config) *plane {
	t.Helper()
	objects, err := bpf.Open(cfg)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { _ = objects.Close() })
	if err := objects.SetIface(wireIndex, 1, attach.IfaceXDPXmit, 1500); err != nil {
		t.Fatal(err)
	}
	p := &plane{T: t, objects: objects, now: time.Now(), counts: map[string]uint64{}, gone: map[netip.Addr]bool{}}
	p.restart()
	return p
}

// restart makes a new agent's data plane over the same maps.
func (p *plane) restart() {
	p.Helper()
	target, err := dataplane.New(dataplane.Config{
		Maps: p.objects, Hops: onWire{p.gone}, Now: func() time.Time { return p.now },
		NodeAddrs:  func([]string) ([]netip.Addr, error) { return p.nodeAddrs, nil },
		LocalPorts: func() (uint16, uint16, error) { return p.localPorts[0], p.localPorts[1], nil },
	})
	if err != nil {
		p.Fatal(err)
	}
	p.target = target
}

func (p *plane) apply(services ...model.Service) {
	p.Helper()
	p.gen++
	s := &model.State{Generation: p.gen, Settings: p.settings}
	for _, svc := range services {
		s.Services = append(s.Services, &svc)
	}
	slices.SortFunc(s.Services, func(a, b *model.Service) int { return a.Name.Compare(b.Name) })
	p.state = s
	p.again()
}

// again applies the last state, as is done when a next hop has changed.
func (p *plane) again() {
	p.Helper()
	if err := p.target.Apply(context.Background(), p.state); err != nil {
		p.Fatal(err)
	}
}

// run sends one frame through a program and tells what came out and which
// counters of the wire moved.
func (p *plane) run(prog *ebpf.Program, frame []byte) (verdict uint32, out []byte, moved []string) {
	p.Helper()
	verdict, out = p.send(prog, frame)
	return verdict, out, p.moved()
}

// send is run without a look at the counters.
func (p *plane) send(prog *ebpf.Program, frame []byte) (verdict uint32, out []byte) {
	p.Helper()
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	if prog.Type() == ebpf.XDP {
		// struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
		ctx := make([]byte, 24)
		binary.NativeEndian.PutUint32(ctx[4:], uint32(len(frame)))
		binary.NativeEndian.PutUint32(ctx[12:], wireIndex)
		opts.Context = ctx
		feature.Needs(p.T, feature.XDPTestContext)
	} else {
		ctx := make([]byte, 192) // struct __sk_buff; ifindex is at 40
		binary.NativeEndian.PutUint32(ctx[40:], wireIndex)
		opts.Context = ctx
	}
	verdict, err := prog.Run(opts)
	if err != nil {
		p.Fatalf("run %s: %v", prog, err)
	}
	return verdict, opts.DataOut
}

// moved lists the counters that moved since the last call, as "reason" or
// "reason*n".
func (p *plane) moved() []string {
	p.Helper()
	now := map[string]uint64{}
	err := p.objects.EachPacketCount(func(slot uint32, reason int, n uint64) {
		now[fmt.Sprintf("%d/%s", slot, bpf.Reasons[reason].Name)] = n
	})
	if err != nil {
		p.Fatal(err)
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(now)) {
		switch d := now[k] - p.counts[k]; d {
		case 0:
		case 1:
			out = append(out, k)
		default:
			out = append(out, fmt.Sprintf("%s*%d", k, d))
		}
	}
	p.counts = now
	return out
}

func service(project string, vip4, vip6 string, ports []model.Port, backends ...string) model.Service {
	svc := model.Service{Name: model.ServiceName{Project: project, User: "user"}, Mode: model.ModeNAT, Ports: ports}
	if vip4 != "" {
		svc.VIP4 = netip.MustParseAddr(vip4)
	}
	if vip6 != "" {
		svc.VIP6 = netip.MustParseAddr(vip6)
	}
	for _, b := range backends {
		a := netip.MustParseAddr(b)
		be := model.Backend{Weight: 1}
		if a.Is4() {
			be.Addr4 = a
		} else {
			be.Addr6 = a
		}
		svc.Backends = append(svc.Backends, be)
	}
	return svc
}

var webPorts = []model.Port{{Service: 90, Container: 8090, Protocol: model.TCP}, {Service: 53, Container: 5353, Protocol: model.UDP}}

func web() model.Service { return service("web", vip4, vip6, webPorts, back4, back6) }
