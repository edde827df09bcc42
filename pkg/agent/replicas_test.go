// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/health"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestA28UnheardPorts: of a workload's ready replica every TCP port is looked
// at, of others none, and after the time for it none either.
func TestA28UnheardPorts(t *testing.T) {
	a := &Agent{parts: parts{instead: func(to netip.AddrPort) string {
		if to.Port() == 8090 {
			return ""
		}
		return "the workload listens on *:8090"
	}}}
	m := &model.Service{Workload: &model.Workload{}, Ports: []model.Port{
		{Container: 8090, Protocol: model.TCP}, {Container: 8099, Protocol: model.TCP}, {Container: 53, Protocol: model.UDP},
	}}
	ready := model.Backend{Addr4: netip.MustParseAddr("10.9.0.1"), Weight: 1}
	draining := ready
	draining.Condition = model.Draining
	soon, fixed := time.Now().Add(time.Hour), *m
	fixed.Workload = nil
	const says = "nothing listens on 10.9.0.1:8099: the workload listens on *:8090"
	if got := a.unheard(m, ready, soon); got != says {
		t.Errorf("%q, want %q", got, says)
	}
	for what, got := range map[string]string{
		"late": a.unheard(m, ready, time.Now().Add(-time.Second)), "draining": a.unheard(m, draining, soon), "fixed": a.unheard(&fixed, ready, soon),
	} {
		if got != "" {
			t.Errorf("%s: %q, want nothing", what, got)
		}
	}
}

// A replica that packets do not reach is not ready, and a person is told which
// one, what was found and what to do.
func TestUnreachableReplicas(t *testing.T) {
	four, six := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd00:9::1")
	for _, tc := range []struct {
		name  string
		hop   nexthop.Hop
		other nexthop.Hop // of the IPv6 address
		node  model.Node
		ready bool
		says  []string
	}{
		{name: "well", hop: nexthop.Hop{IfIndex: 3}, other: nexthop.Hop{IfIndex: 3}, ready: true},
		{
			name: "no route", hop: nexthop.Hop{Err: "no route to 10.9.0.1: no route matches; add one (ip route add)"}, other: nexthop.Hop{Err: "no route to fd00:9::1"},
			says: []string{"no route to 10.9.0.1", "ip route add", "ip route get 10.9.0.1", "fd00:9::1"},
		},
		{name: "one family", hop: nexthop.Hop{IfIndex: 3}, other: nexthop.Hop{Err: "no route to fd00:9::1"}, ready: true, says: []string{"no route to fd00:9::1"}},
		{
			name: "local", hop: nexthop.Hop{IfIndex: 3, IfName: "eth0", Local: true}, other: nexthop.Hop{IfIndex: 3, IfName: "eth0", Local: true},
			says: []string{"10.9.0.1 is an address of this host itself", "only clients on this host"},
		},
		{
			name: "local, as are all clients", hop: nexthop.Hop{IfIndex: 3, Local: true}, other: nexthop.Hop{IfIndex: 3, Local: true},
			node: model.Node{Interfaces: []string{}}, ready: true, says: []string{"only clients on this host"},
		},
		{
			name: "raw", hop: nexthop.Hop{IfIndex: 3, IfName: "wg0", Raw: true}, other: nexthop.Hop{IfIndex: 3, IfName: "wg0", Raw: true},
			says: []string{"behind interface wg0", "no Ethernet header"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.hop.Addr, tc.other.Addr = four, six
			part := source.Part{
				Settings: &model.Settings{Node: tc.node},
				Services: []*model.Service{{
					Name: name("a"), Ports: []model.Port{{Service: 90, Container: 8090, Protocol: model.TCP}},
					Backends: []model.Backend{{Addr4: four, Addr6: six, Weight: 1}},
				}},
			}
			h := newHarness(t, func(p *parts) {
				p.sources[0] = fakeSource{part}
				p.hop = func(a netip.Addr) (nexthop.Hop, bool) {
					if a == six {
						return tc.other, true
					}
					return tc.hop, a == four
				}
			})
			h.run(t)
			s := wait(t, "start", h.started)
			defer func() { h.cancel(); wait(t, "end", h.done) }()
			svc := h.services()[0]
			if (svc.Ready() == 1) != tc.ready || (s.Counts.Ready == 1) != tc.ready || s.Counts.Replicas != 1 {
				t.Errorf("%+v, counts %+v; want ready: %v", svc.Replicas, s.Counts, tc.ready)
			}
			problems := strings.Join(s.Problems, "\n")
			if (len(tc.says) > 0) != strings.Contains(problems, "service a/u: replica 10.9.0.1 fd00:9::1: ") {
				t.Errorf("problems %q", problems)
			}
			for _, want := range tc.says {
				if !strings.Contains(svc.Replicas[0].Problem, want) || !strings.Contains(problems, want) {
					t.Errorf("problem %q, in the status %q: want %q", svc.Replicas[0].Problem, problems, want)
				}
			}
		})
	}
}

// Many of a kind are summed up: a status must stay readable.
func TestManyUnreachableReplicas(t *testing.T) {
	part := source.Part{Settings: &model.Settings{}, Services: []*model.Service{{Name: name("a")}}}
	addr := fixed
	for range 2 * mostProblems {
		part.Services[0].Backends = append(part.Services[0].Backends, model.Backend{Addr4: addr, Weight: 1})
		addr = addr.Next()
	}
	h := newHarness(t, func(p *parts) {
		p.sources[0] = fakeSource{part}
		p.hop = func(a netip.Addr) (nexthop.Hop, bool) { return nexthop.Hop{Addr: a, Err: "no route"}, true }
	})
	h.run(t)
	s := wait(t, "start", h.started)
	defer func() { h.cancel(); wait(t, "end", h.done) }()
	if n := len(s.Problems); n != mostProblems+1 || !strings.HasPrefix(s.Problems[n-1], "and 20 more") {
		t.Errorf("%d problems, the last of them %q", n, s.Problems[n-1])
	}
}

// A replica that fails its check gets no connections, and every view says so;
// the last one that is left stays in service, and that is said, too.
func TestChecksAreShown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	good, bad := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	check := model.HealthCheck{Type: "tcp", Interval: 50 * time.Millisecond, Timeout: 50 * time.Millisecond, Rise: 1, Fall: 1}
	part := source.Part{Settings: &model.Settings{}}
	for n, backends := range map[string][]model.Backend{"a": {{Addr4: good, Weight: 1}, {Addr4: bad, Weight: 1}}, "b": {{Addr4: bad, Weight: 1}}} {
		part.Services = append(part.Services, &model.Service{
			Name: name(n), Health: check, Backends: backends,
			Ports: []model.Port{{Service: 90, Container: port, Protocol: model.TCP}},
		})
	}
	h := newHarness(t, func(p *parts) {
		p.health = health.New(health.Config{Log: quiet()})
		p.sources = append([]source.Source{fakeSource{part}, p.health}, p.sources[1:]...)
		p.targets[0] = append(p.targets[0], p.health)
	})
	h.run(t)
	wait(t, "start", h.started)
	defer func() { h.cancel(); wait(t, "end", h.done) }()
	var services []admin.Service
	until(t, "both services are judged", func() bool {
		services = h.services()
		return services[0].Ready() == 1 && services[1].LastResort != ""
	})
	if r := services[0].Replicas; r[0].Check != "passing" || r[1].Check != "failing" || r[1].Condition != "down" || !strings.Contains(r[1].Reason, "connection refused on 127.0.0.2") {
		t.Errorf("replicas of a: %+v", r)
	}
	if r := services[1].Replicas[0]; r.Check != "failing" || !r.Ready() {
		t.Errorf("replica of b, the last resort: %+v", r)
	}
	problems := strings.Join(h.status().Problems, "\n")
	for _, want := range []string{"service a/u: replica 127.0.0.2: fails its health check: connection refused", "service b/u: last resort"} {
		if !strings.Contains(problems, want) {
			t.Errorf("problems lack %q:\n%s", want, problems)
		}
	}
	healthy := map[string]bool{}
	for _, b := range h.backends() {
		healthy[b.Service+" "+b.Address] = b.Healthy
	}
	if !healthy["a/u 127.0.0.1"] || healthy["a/u 127.0.0.2"] || healthy["b/u 127.0.0.2"] {
		t.Errorf("backend_healthy: %v", healthy)
	}
	for _, n := range h.engine.missing() {
		if n.feature == model.FeatureHealth {
			t.Error("health is told as not served yet")
		}
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}
