// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestFullNAT: replicas that have no way to the clients, only to the node, see
// the node's address, and what they answer reaches the clients.
func TestFullNAT(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		for k, r := range l.Replicas {
			for _, f := range lab.Families {
				family := "-" + strings.TrimPrefix(f.String(), "v")
				gateway := netip.MustParseAddr(fmt.Sprintf("10.1.%d.1", k+1))
				if f == lab.V6 {
					gateway = netip.MustParseAddr(fmt.Sprintf("fd00:1:%d::1", k+1))
				}
				r.NS.Run(t, "ip", family, "route", "del", "default")
				r.NS.Run(t, "ip", family, "route", "add", lab.NodeAddr(f).String(), "via", gateway.String())
			}
		}
		l.Serve(t)
		full := func(s lab.Service) lab.Service {
			s.Mode = "full-nat"
			return s
		}
		c := lab.Config{Services: []lab.Service{
			full(service(l, 10, "shop/web", "90", "8090", "tcp")),
			full(service(l, 11, "shop/dgram", "71", "7001", "udp")),
			full(stream(l, 13)),
		}}
		a := l.Start(t, c)
		families(t, func(t *testing.T, f lab.Family) {
			for range 5 {
				got, err := curl(l.Client, "http://"+vip(f, 10, 90).String()+"/")
				must(t, err)
				if got.Client.Addr() != lab.NodeAddr(f) {
					t.Errorf("the replica sees %v, wanted the node's %v", got.Client, lab.NodeAddr(f))
				}
			}
			spread, err := l.Client.Spread(vip(f, 13, 70), 60)
			must(t, err)
			if len(spread) != len(l.Replicas) {
				t.Errorf("60 connections reached %v, wanted all %d replicas", spread, len(l.Replicas))
			}
			for i := range 20 {
				s, err := l.Client.Dial("udp", netip.AddrPort{}, vip(f, 11, 71), time.Second)
				must(t, err)
				payload := strings.Repeat(fmt.Sprint(i), 700) // in fragments, some of it
				got, err := lab.AskUDP(s, payload, 2*time.Second)
				must(t, err)
				if got.Rest != payload || got.Client.Addr() != lab.NodeAddr(f) {
					t.Errorf("answer of %d bytes to %v, wanted %d to %v", len(got.Rest), got.Client, len(payload), lab.NodeAddr(f))
				}
				s.Close()
			}
		})
		// Connections outlive the agent and a change of its replicas.
		kept, err := l.Client.Open(netip.AddrPort{}, vip(lab.V4, 13, 70))
		must(t, err)
		defer kept.Close()
		a.Kill(t)
		must(t, kept.Ping("no agent", time.Second))
		a.Run(t)
		must(t, kept.Ping("another agent", time.Second))
		_, err = l.Client.Spread(vip(lab.V4, 13, 70), 60)
		must(t, err)
	})
}
