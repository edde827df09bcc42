// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestDeadReplicaLosesUDPFlows: a flow whose replica is found dead goes on
// with another one at its next packet, and stays there.
func TestDeadReplicaLosesUDPFlows(t *testing.T) {
	lab.Some(t, wires, func(t *testing.T, l *lab.Lab) {
		both := service(l, 43, "shop/both", "70", "7000", "tcp+udp")
		both.Health = "{type: tcp, interval: 100ms, timeout: 100ms, rise: 1, fall: 2}"
		kill := map[string]func(){}
		for _, r := range l.Replicas {
			ln := r.Listen(t, 7000)
			kill[r.Name] = func() { ln.Close() }
			go accept(ln)
			r.ServeUDP(t, 7000)
		}
		a := l.Start(t, lab.Config{Services: []lab.Service{both}})
		socks := map[net.Conn]string{}
		for i := range 24 {
			c, err := l.Client.Dial("udp", netip.AddrPort{}, vip(lab.Families[i%2], 43, 70), time.Second)
			must(t, err)
			defer c.Close()
			got, err := lab.AskUDP(c, "first", 3*time.Second)
			must(t, err)
			socks[c] = got.Replica
		}
		dead := l.Replicas[1].Name
		kill[dead]()
		condition(t, a, "shop/both", l.Replicas[1], "down")
		moved := 0
		for c, was := range socks {
			var now string
			for k := range 3 {
				got, err := lab.AskUDP(c, fmt.Sprintf("later %d", k), 3*time.Second)
				must(t, err)
				switch {
				case got.Replica == dead:
					t.Fatalf("datagram %d after %s was found dead still reached it", k, dead)
				case was != dead && got.Replica != was:
					t.Fatalf("a flow of %s moved to %s", was, got.Replica)
				case now != "" && got.Replica != now:
					t.Fatalf("a flow went to %s, then to %s", now, got.Replica)
				}
				now = got.Replica
			}
			if was == dead {
				moved++
			}
		}
		if moved == 0 {
			t.Errorf("none of %d flows was with %s", len(socks), dead)
		}
	})
}

func accept(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}

// condition waits until the agent calls a replica so, and the state is in force.
func condition(t *testing.T, a *lab.Agent, service string, r *lab.Replica, want string) {
	t.Helper()
	lab.Poll(t, 10*time.Second, func() error {
		for _, v := range a.Services(t)[service].Replicas {
			if v.Addr4 == r.Addr4 && v.Condition == want {
				return nil
			}
		}
		return lab.ErrNotYet
	}, a.Log)
	a.WaitReady(t, 0)
}

// TestSlowStart: a replica that comes back gets a tenth of its share at first;
// when the slow start is called off, all of it. No connection breaks.
func TestSlowStart(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		svc := service(l, 44, "shop/slow", "70", fmt.Sprint(lab.TCPPort), "tcp")
		svc.Backends = lab.Backends(l.Replicas[:2]...)
		check := "interval: 50ms, timeout: 50ms, rise: 1, fall: 3"
		svc.Health = "{type: tcp, " + check + ", slowStart: 1h}"
		l.Replicas[0].ServeTCP(t, lab.TCPPort)
		a := l.Start(t, lab.Config{Services: []lab.Service{svc}})
		back := l.Replicas[1]
		condition(t, a, "shop/slow", back, "down") // nothing listens there yet
		conns := open(t, l, 30, vip(lab.V4, 44, 70), vip(lab.V6, 44, 70))
		back.ServeTCP(t, lab.TCPPort)
		condition(t, a, "shop/slow", back, "ready")
		share := func(f lab.Family) int {
			got, err := l.Client.Spread(vip(f, 44, 70), 600)
			must(t, err)
			return got[back.Name]
		}
		families(t, func(t *testing.T, f lab.Family) {
			if n := share(f); n < 6 || n > 75 { // a tenth of a half is 30
				t.Errorf("%s, just back, got %d of 600 connections, wanted about 30", back.Name, n)
			}
		})
		svc.Health = "{type: tcp, " + check + "}"
		a.Reload(t, lab.Config{Services: []lab.Service{svc}})
		families(t, func(t *testing.T, f lab.Family) {
			lab.Poll(t, 5*time.Second, func() error {
				if n := share(f); n < 200 {
					return fmt.Errorf("%s got %d of 600 connections, wanted about 300", back.Name, n)
				}
				return nil
			})
		})
		if broken := pingAll(conns, 3*time.Second); len(broken) > 0 {
			t.Errorf("%d of %d connections broke, the first: %v", len(broken), len(conns), broken[0])
		}
	})
}

// TestL04SignalsFindADeadReplica: a replica that is checked once an hour stops
// answering SYNs, or refuses them. Clients' own connections tell, and it is out
// of service within seconds. It was in service before: the config alone never
// tells.
func TestL04SignalsFindADeadReplica(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		svc := stream(l, 13)
		svc.Health = "{type: tcp, interval: 1h, timeout: 300ms, rise: 1, fall: 2}"
		l.Serve(t)
		a := l.Start(t, lab.Config{Services: []lab.Service{svc}})
		silent, refusing := l.Replicas[0], l.Replicas[1]
		// The first checks come at a pace of their own.
		lab.Poll(t, 10*time.Second, func() error {
			for _, r := range a.Services(t)["shop/stream13"].Replicas {
				if r.Check != "passing" || r.Reason != "" {
					return fmt.Errorf("replica %v: %q, %q", r.Addr4, r.Check, r.Reason)
				}
			}
			return nil
		}, a.Log)
		drop := "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; add rule inet deaf in tcp dport 7000 "
		silent.NS.Run(t, "nft", drop+"drop")
		refusing.NS.Run(t, "nft", drop+"reject with tcp reset")
		for _, r := range []*lab.Replica{refusing, silent} {
			lab.Poll(t, 30*time.Second, func() error {
				for i := range 6 { // some of them reach it
					c, err := l.Client.Dial("tcp", netip.AddrPort{}, vip(lab.Families[i%2], 13, 70), 100*time.Millisecond)
					if err == nil {
						c.Close()
					}
				}
				for _, v := range a.Services(t)["shop/stream13"].Replicas {
					if v.Addr4 == r.Addr4 && v.Condition == "down" {
						return nil
					}
				}
				return fmt.Errorf("%s is still in service", r.Name)
			}, a.Log)
		}
		for _, f := range lab.Families {
			reaches(t, l, vip(f, 13, 70), "replica-3")
		}
	})
}
