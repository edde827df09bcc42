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

// TestLastReplicaBehindItsInterfaceDrains: nothing of the new state leads
// there any more, and its replies are translated all the same.
func TestLastReplicaBehindItsInterfaceDrains(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		svc := stream(l, 13)
		svc.Drain = 10 * time.Minute
		a := l.Start(t, lab.Config{Services: []lab.Service{svc}})
		conns := open(t, l, 30, vip(lab.V4, 13, 70), vip(lab.V6, 13, 70))
		// All but the first leave; then the agent changes, too.
		svc.Backends = lab.Backends(l.Replicas[0])
		a.Reload(t, lab.Config{Services: []lab.Service{svc}})
		if broken := pingAll(conns, 2*time.Second); len(broken) > 0 {
			t.Errorf("%d of %d connections broke, the first: %v", len(broken), len(conns), broken[0])
		}
		a.Kill(t)
		a.Run(t)
		a.WaitReady(t, 0)
		if broken := pingAll(conns, 2*time.Second); len(broken) > 0 {
			t.Errorf("after the agent's restart %d of %d connections broke, the first: %v", len(broken), len(conns), broken[0])
		}
	})
}

// TestNodePortOnANewAddress: node.addresses has its default, the interface gets
// another address while the agent runs.
func TestNodePortOnANewAddress(t *testing.T) {
	lab.Some(t, []string{"tcx", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		svc := stream(l, 13)
		svc.Expose = map[int]int{9000: 70}
		a := l.Start(t, lab.Config{Services: []lab.Service{svc}})
		fresh := netip.MustParseAddrPort("198.51.100.77:9000")
		reached := func(to netip.AddrPort) error {
			c, err := l.Client.Open(netip.AddrPort{}, to)
			if err == nil {
				c.Close()
			}
			return err
		}
		must(t, reached(netip.AddrPortFrom(lab.Node4, 9000)))
		l.Node.Run(t, "ip", "addr", "add", "198.51.100.77/24", "dev", "up0")
		lab.Poll(t, 10*time.Second, func() error { return reached(fresh) }, a.Log)
	})
}

// TestAddressOfTheNodeIsNoVIP: a service does not take a whole address of the
// machine, also when the machine gets it later; without it the service gets
// its address back.
func TestAddressOfTheNodeIsNoVIP(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		own := stream(l, 13)
		own.VIP = lab.Node4.String()
		a := l.Start(t, lab.Config{Services: []lab.Service{own, stream(l, 14)}})
		problem := func(user, addr, dev string) error {
			want := fmt.Sprintf("service shop/%s: vip %s is an address of this host, on interface %s", user, addr, dev)
			if s := a.Status(t); !strings.Contains(strings.Join(s.Problems, "\n"), want) {
				return fmt.Errorf("problems %q lack %q", s.Problems, want)
			}
			return nil
		}
		must(t, problem("stream13", lab.Node4.String(), "up0"))
		if v := a.Services(t)["shop/stream13"].VIP; v.IsValid() {
			t.Errorf("the service has the virtual IP %v", v)
		}
		l.Node.Run(t, "ip", "addr", "add", "198.18.0.14/32", "dev", "up0")
		lab.Poll(t, 10*time.Second, func() error { return problem("stream14", "198.18.0.14", "up0") }, a.Log)
		l.Node.Run(t, "ip", "addr", "del", "198.18.0.14/32", "dev", "up0")
		lab.Poll(t, 10*time.Second, func() error {
			if v := a.Services(t)["shop/stream14"].VIP; v != netip.MustParseAddr("198.18.0.14") {
				return fmt.Errorf("virtual IP is %v", v)
			}
			return nil
		}, a.Log)
		a.WaitReady(t, 0)
		reaches(t, l, vip(lab.V4, 14, 70), "replica-1", "replica-2", "replica-3")
	})
}

// TestUnreachableReplicaIsNamed: one without a route, and one that is the
// node's own address.
func TestUnreachableReplicaIsNamed(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		svc := stream(l, 13, l.Replicas[0])
		for _, addr := range []string{"203.0.113.99", lab.Node4.String()} {
			svc.Backends = append(svc.Backends, lab.Backend{Addrs: []netip.Addr{netip.MustParseAddr(addr)}})
		}
		a := l.Start(t, lab.Config{Services: []lab.Service{svc}})
		problems := strings.Join(a.Status(t).Problems, "\n")
		for _, want := range []string{
			"service shop/stream13: replica 203.0.113.99: no route to 203.0.113.99",
			"service shop/stream13: replica 198.51.100.1: 198.51.100.1 is an address of this host itself",
		} {
			if !strings.Contains(problems, want) {
				t.Errorf("problems lack %q:\n%s", want, problems)
			}
		}
		if out := a.CLI(t, "services", "shop/stream13"); strings.Count(out, "unreachable") != 2 || !strings.Contains(out, "1 of 3") {
			t.Errorf("services shop/stream13:\n%s", out)
		}
	})
}
