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

// TestAgentKilled: kill -9 under load. No established connection breaks, new
// ones are balanced while no agent runs, and the next agent adopts what there
// is: virtual IPs, flows and programs.
func TestAgentKilled(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		allocated := stream(l, 13)
		allocated.Name, allocated.VIP, allocated.VIP6 = "shop/allocated", "", ""
		config := lab.Config{Services: []lab.Service{stream(l, 14), allocated}}
		a := l.Start(t, config)
		before := a.Services(t)["shop/allocated"]
		if !before.VIP.IsValid() || !before.VIP6.IsValid() {
			t.Fatalf("no virtual IPs were allocated: %+v", before)
		}
		remotes := []netip.AddrPort{
			vip(lab.V4, 14, 70), vip(lab.V6, 14, 70),
			netip.AddrPortFrom(before.VIP, 70), netip.AddrPortFrom(before.VIP6, 70),
		}
		load := l.Client.NewLoad(t, 200, 50*time.Millisecond, remotes...)
		flows := flowsByClient(a.Flows(t))
		pid := a.PID()

		a.Kill(t)
		for _, remote := range remotes {
			got, err := l.Client.Spread(remote, 200)
			if err != nil {
				t.Fatalf("no agent runs, new connections to %v: %v, before that %v", remote, err, got)
			}
			if len(got) != len(l.Replicas) {
				t.Errorf("no agent runs, 200 connections to %v reached %v, wanted all replicas", remote, got)
			}
		}
		load.Round(t)

		a.Run(t)
		a.WaitReady(t, 0)
		load.Round(t)
		if now := a.Status(t).PID; now == pid || now != a.PID() {
			t.Errorf("status names pid %d, wanted %d", now, a.PID())
		}
		after := a.Services(t)["shop/allocated"]
		if after.VIP != before.VIP || after.VIP6 != before.VIP6 {
			t.Errorf("virtual IPs %v %v became %v %v", before.VIP, before.VIP6, after.VIP, after.VIP6)
		}
		now := flowsByClient(a.Flows(t))
		for client, backend := range flows {
			if now[client] != backend {
				t.Errorf("flow of %v to %v is now to %v", client, backend, now[client])
			}
		}
		if len(flows) < len(load.Conns) {
			t.Errorf("%d flows were known of %d connections", len(flows), len(load.Conns))
		}
		// The new agent rules the old one's kernel state.
		config.Services[0].Backends = lab.Backends(l.Replicas[1])
		a.Reload(t, config)
		reaches(t, l, vip(lab.V4, 14, 70), "replica-2")
		load.Round(t)
		if err := load.Stop(); err != nil {
			t.Error(err)
		}
	})
}

type clientFlow struct{ client, vip netip.AddrPort }

func flowsByClient(flows []lab.Flow) map[clientFlow]netip.AddrPort {
	m := map[clientFlow]netip.AddrPort{}
	for _, f := range flows {
		m[clientFlow{f.Client, f.VIP}] = f.Backend
	}
	return m
}

// TestStoppedAgentLeavesForwarding: after SIGTERM connections and balancing go
// on too.
func TestStoppedAgentLeavesForwarding(t *testing.T) {
	lab.Some(t, []string{"clsact", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Start(t, lab.Config{Services: []lab.Service{stream(l, 13)}})
		conns := open(t, l, 10, vip(lab.V4, 13, 70), vip(lab.V6, 13, 70))
		a.Stop(t)
		for _, c := range conns {
			must(t, c.Ping("no agent", 2*time.Second))
		}
		reaches(t, l, vip(lab.V4, 13, 70), "replica-1", "replica-2", "replica-3")
	})
}

// TestSecondAgentIsRefused: with the same directories and with others.
func TestSecondAgentIsRefused(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		config := lab.Config{Services: []lab.Service{stream(l, 13)}}
		first := l.Start(t, config)
		other := lab.NewAgent(t, l.Node, l.Mode)
		other.Write(t, config)
		for name, second := range map[string]*lab.Agent{"same directories": first, "other directories": other} {
			t.Run(name, func(t *testing.T) {
				cmd := second.Command("run", "--config", second.Path("fairlead.yaml"))
				out, err := cmd.CombinedOutput()
				if err == nil || cmd.ProcessState.ExitCode() != 1 {
					t.Errorf("the second agent ended with %v, wanted exit 1", err)
				}
				if want := fmt.Sprintf("pid %d", first.PID()); !strings.Contains(string(out), want) {
					t.Errorf("the second agent said %q, wanted %q in it", out, want)
				}
			})
		}
		reaches(t, l, vip(lab.V4, 13, 70), "replica-1", "replica-2", "replica-3")
		if s := first.Status(t); s.PID != first.PID() || !s.Ready {
			t.Errorf("the first agent is %+v", s)
		}
	})
}
