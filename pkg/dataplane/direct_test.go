// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// direct is a service of one port, two replicas and its flows.
type direct struct {
	*fakeMaps
	c   *clock
	key bpf.ServiceKey
}

func newDirect() *direct {
	return &direct{newFakeMaps(), &clock{time.Unix(1e9, 0)}, bpf.ServiceKey{VIP: netip.MustParseAddr("198.18.0.10"), Port: 90, Proto: 6}}
}

// begin adds a flow as programs do for a direct service: it has the entry of
// the replies alone.
func (d *direct) begin(port uint16) {
	s := d.services[d.key]
	hash := uint32(port) * 7919
	id := d.slots[s.Base+hash%s.Len]
	b := d.backends[id]
	client := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port)
	d.flows[bpf.FlowKey{Src: netip.AddrPortFrom(b.Addr, b.Port), Dst: client, Proto: 6}] = bpf.Flow{
		Src: netip.AddrPortFrom(d.key.VIP, d.key.Port), Dst: client, Service: s.ID, Backend: id,
		Hash: hash, Flags: bpf.FlowReply | bpf.FlowSingle, Seen: uint32(d.jiffies),
	}
}

// without counts flows that have no entry of the client's direction.
func (d *direct) without() (n int) {
	for k, f := range d.flows {
		if f.Flags&bpf.FlowReply == 0 {
			continue
		}
		if _, ok := d.flows[f.Twin(k.Proto)]; !ok {
			n++
		}
	}
	return n
}

// withAffinity is a state whose flows need entries.
func withAffinity(s *model.State) *model.State {
	s.Services[0].Balance.Affinity = "client-ip"
	return s
}

// A flow that began while its service came to follow entries gets one, also if
// the agent was stopped or failed right then: before the table may change.
func TestFlowsGetEntriesAfterAStop(t *testing.T) {
	stopped := errors.New("stopped")
	for _, restart := range []bool{false, true} {
		for _, sweep := range []bool{false, true} {
			t.Run(fmt.Sprintf("restart %t, sweep %t", restart, sweep), func(t *testing.T) {
				d := newDirect()
				target := newTarget(t, d.fakeMaps, d.c)
				apply(t, target, stateOfOne(1, "10.1.0.2", "10.1.0.3"))
				d.begin(1)
				d.looks = 0
				d.onLook = func(look int) error {
					if look == 1 {
						return nil
					}
					d.begin(2)
					return stopped
				}
				next := withAffinity(stateOfOne(2, "10.1.0.3", "10.1.0.4"))
				was := d.services[d.key]
				if err := target.Apply(context.Background(), next); !errors.Is(err, stopped) {
					t.Fatalf("apply: %v, wanted the fault", err)
				}
				if is := d.services[d.key]; !is.Flows || is.Base != was.Base || d.without() != 1 {
					t.Fatalf("not stopped where it should be: %+v, %d flows without an entry", is, d.without())
				}
				if restart {
					target = newTarget(t, d.fakeMaps, d.c)
				}
				d.onLook = nil
				if sweep {
					if err := target.Sweep(); err != nil {
						t.Fatal(err)
					}
					if n := d.without(); n != 0 {
						t.Errorf("%d flows have no entry after a sweep", n)
					}
				}
				apply(t, target, next)
				if is := d.services[d.key]; is.Base == was.Base || !is.Flows {
					t.Fatalf("the table did not change: %+v", is)
				}
				if n := d.without(); n != 0 {
					t.Errorf("the table changed and %d flows have no entry", n)
				}
				if len(target.kernel.halfway) > 0 {
					t.Errorf("halfway: %v", target.kernel.halfway)
				}
			})
		}
	}
}

// After a restart the first sweep finds that nothing was left to be done.
func TestASweepTrustsEntries(t *testing.T) {
	d := newDirect()
	s := withAffinity(stateOfOne(1, "10.1.0.2", "10.1.0.3"))
	apply(t, newTarget(t, d.fakeMaps, d.c), s)
	target := newTarget(t, d.fakeMaps, d.c)
	if err := target.Sweep(); err != nil {
		t.Fatal(err)
	}
	d.looks = 0
	apply(t, target, s)
	apply(t, target, withAffinity(stateOfOne(2, "10.1.0.3")))
	if d.looks != 0 {
		t.Errorf("%d looks at all flows for a change of a service that follows entries", d.looks)
	}
}

// However many services come to need entries, all flows are read twice.
func TestManyServicesComeToNeedEntries(t *testing.T) {
	d := newDirect()
	target := newTarget(t, d.fakeMaps, d.c)
	s := stateOfHundred()
	apply(t, target, s)
	for i, svc := range s.Services {
		d.key.VIP = svc.VIP4
		d.begin(uint16(1 + i))
	}
	next := &model.State{Generation: 2, Services: slices.Clone(s.Services)}
	for i, svc := range next.Services {
		one := *svc
		one.Balance.Affinity = "client-ip"
		next.Services[i] = &one
	}
	d.looks = 0
	apply(t, target, next)
	if n := d.without(); n != 0 || d.looks != 2 {
		t.Errorf("%d flows without an entry, %d looks at all flows, wanted 0 and 2", n, d.looks)
	}
	apply(t, target, &model.State{Generation: 3})
	if d.looks != 2 {
		t.Errorf("%d more looks as services go that follow entries", d.looks-2)
	}
}

// Rules that change are as new as a table: a packet that met those before may be
// on its way to write its flow, so flows are judged a second later.
func TestRulesSettleLater(t *testing.T) {
	d := newDirect()
	target := newTarget(t, d.fakeMaps, d.c)
	apply(t, target, withAffinity(stateOfOne(1, "10.1.0.2", "10.1.0.3")))
	d.c.now = d.c.now.Add(time.Hour)
	apply(t, target, stateOfOne(2, "10.1.0.2", "10.1.0.3"))
	for _, want := range []bool{true, false} {
		if err := target.Sweep(); err != nil {
			t.Fatal(err)
		}
		if is := d.services[d.key]; is.Flows != want || is.Affinity != 0 {
			t.Errorf("%s after the change: %+v, wanted to follow entries: %t", d.c.now.Sub(time.Unix(1e9, 0))-time.Hour, is, want)
		}
		d.c.now = d.c.now.Add(settleAfter)
	}
}
