// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Row W01: a connection that a replica took at the last moment before its service
// fell asleep goes on there, however many times the service slept before, and
// whatever became of its older tables.
func TestW01TakenAtTheLastMoment(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		both := [2][]model.Backend{web().Backends, service("web", vip4, vip6, webPorts, "10.1.0.3", "fd00:1::3").Backends}
		for round := range 12 {
			svc := web()
			svc.Ports = webPorts[:1]
			svc.Sleep = model.Awake
			svc.Backends = both[round%2]
			p.apply(svc)
			fs := []frame{request4(), request6()}
			for i := range fs {
				fs[i].tcp, fs[i].sport = syn(), fs[i].sport+uint16(10*round)
				if _, _, moved := p.run(h.prog(p), fs[i].bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
					t.Fatalf("round %d, awake: %v", round, moved)
				}
			}
			svc.Sleep = model.Asleep
			svc.Backends = slices.Clone(both[round%2])
			for i := range svc.Backends {
				svc.Backends[i].Condition = model.Draining
			}
			p.apply(svc)
			for _, gone := range []bool{false, true} {
				if gone {
					svc.Backends = nil
					p.apply(svc)
				}
				for i := range fs {
					fs[i].tcp = ack()
					if _, _, moved := p.run(h.prog(p), fs[i].bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
						t.Errorf("round %d, asleep, replica gone from the state: %v, packet %d: %v", round, gone, i, moved)
					}
				}
			}
		}
	})
}
