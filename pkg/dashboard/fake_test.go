// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostile is what a name of somebody else's may hold.
const hostile = `<img src=x onerror="document.title='taken'">`

// fake is an agent of n services whose counters grow with every reading, in
// the admin socket's own types.
type fake struct {
	n     int
	reads atomic.Uint64
}

func (f *fake) views() Views {
	return Views{
		Status: func() any { return f.status() }, Services: func() any { return f.services() },
		Workloads: func() any {
			return []admin.Workload{{ID: "sleepy-1", Service: "late/user", Driver: "process", Phase: "backoff", Reason: "exit status 3", Restarts: 4, Next: time.Now().Add(20 * time.Second)}}
		},
		Domains:      func() any { return f.domains() },
		Certificates: func() any { return f.certificates() },
		Requests: func() []Requests {
			return []Requests{{Service: "web/0000", Codes: map[int]uint64{200: 50 * f.reads.Load(), 502: 3 * f.reads.Load()}}}
		},
	}
}

func (f *fake) status() admin.Status {
	reads := f.reads.Add(1) // the first view that is read
	s := admin.Status{
		Version: "v1.2.3", PID: 7, UptimeSeconds: 7260, Config: admin.Config{Path: "/etc/fairlead/fairlead.yaml", Generation: 4},
		Counts:  admin.Counts{Services: f.n, Replicas: 3 * f.n, Ready: 2 * f.n, Flows: 131072, FlowLimit: 524288, Evictions: 12},
		Sources: []source.Status{{Name: "file", Synced: true}},
		Targets: []reconcile.Status{{Target: "dataplane", Generation: 4}, {Target: "ingress", Generation: 4}},
		Interfaces: []admin.Interface{
			{Name: "eth0", Index: 2, Role: "nic", XDP: "native", TC: "tcx", Slot: 1},
			{Name: "eth9", Role: "nic", Error: "there is no interface of this name"},
		},
		Cgroups:  []admin.Cgroup{{Path: "/sys/fs/cgroup", Hooks: []string{"connect4", "connect6"}}},
		Front:    admin.Front{HTTP: "0.0.0.0:80", HTTPS: "0.0.0.0:443", Hosts: 2},
		Problems: []string{"certificate of shop.example.com: the CA answered 429", "route " + hostile},
		Packets: []admin.Packets{
			{Interface: "eth0", Direction: "in", Verdict: "forward", Reason: "service", Count: 9000 * reads},
			{Interface: "eth0", Direction: "in", Verdict: "drop", Reason: "not_allowed", Count: 40 * reads},
		},
		NotServedYet: []admin.NotServed{{Feature: "mode: dsr", Services: []string{"web/0003"}}},
	}
	s.Judge()
	return s
}

// services: every tenth has a replica that is down, every seventh one that drains.
func (f *fake) services() []admin.Service {
	reads, since := f.reads.Load(), time.Now().Add(-10*time.Minute)
	out := []admin.Service{
		{Name: "late/user", Workload: "process", Wanted: 1},
		{Name: "sleepy/user", Workload: "process", Mode: "nat", Drain: "30s", VIP: netip.MustParseAddr("198.18.9.9"), Sleep: &admin.Nap{Stage: "asleep", Since: &since, Cause: "nobody used it"}},
		{Name: "waking/user", Workload: "process", Mode: "nat", Drain: "30s", Wanted: 1, Sleep: &admin.Nap{Stage: "waking", Cause: "a connection", Waiting: 3}},
		{Name: "strange/user", Title: hostile, Wanted: 1, Replicas: []admin.Replica{{Addr4: netip.MustParseAddr("10.9.9.9"), Weight: 1, Condition: "ready"}}},
	}
	for i := range f.n {
		name := fmt.Sprintf("web/%04d", i)
		replica := func(n int) admin.Replica {
			return admin.Replica{Addr4: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(n)}), Weight: 1, Condition: model.Ready.String(), Check: "passing"}
		}
		s := admin.Service{
			Name: name, Title: "Веб/" + name[4:], VIP: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), Mode: "nat", Drain: "30s", Wanted: 3,
			Replicas: []admin.Replica{replica(2), replica(3), replica(4)}, NotServedYet: []string{},
			Hosts: []admin.Host{{Host: fmt.Sprintf("shop%d.example.com", i), TLS: true, Paths: []admin.Path{{Path: "/", ServicePort: 90}}}},
		}
		grow := uint64(10+i%17*(2+i%5)) * (8*reads + []uint64{0, 5, 3, 6}[(reads+uint64(i))%4]) // never goes back
		s.Ports = []admin.Port{{Service: 90, Container: 8090, Protocol: "tcp", Connections: grow, Active: uint64(i % 50), PacketsIn: 10 * grow, PacketsOut: 9 * grow, BytesIn: 900 * grow, BytesOut: 12000 * grow}}
		if i%10 == 3 {
			s.Replicas[1].Condition, s.Replicas[1].Check, s.Replicas[1].Reason = "down", "failing", "connect: connection refused"
		}
		if i%7 == 2 {
			s.Replicas[0].Condition = "draining"
		}
		out = append(out, s)
	}
	return out
}

func (f *fake) domains() admin.Domains {
	return admin.Domains{Domains: []admin.Domain{
		{Host: "shop.example.com", Service: "web/0000", Kind: "own", State: "unconfirmed", Note: `"fairlead domain check shop.example.com" shows the records to set`},
		{Host: "test.user.fairlead.test", Service: "web/0001", Kind: "free", State: "on", Certificate: "valid"},
	}}
}

func (f *fake) certificates() admin.Certificates {
	now := time.Now()
	return admin.Certificates{Certificates: []admin.Certificate{
		{Host: "shop.example.com", State: "waiting", Awaiting: "the CA's check of http-01", Error: "the CA answered 429: too many orders", NextTry: now.Add(10 * time.Minute)},
		{Host: "test.user.fairlead.test", State: "valid", Issuer: "Pebble Intermediate CA", Expires: now.Add(60 * 24 * time.Hour), NextTry: now.Add(30 * 24 * time.Hour)},
	}}
}

// start serves the views on a port of the system's choice.
func start(t *testing.T, v Views) (*Server, string) {
	t.Helper()
	s := New(Config{Views: v})
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Apply(t.Context(), stateWith("127.0.0.1:0")); err != nil {
		t.Fatal(err)
	}
	return s, s.Addr().String()
}

func stateWith(address string) *model.State {
	s := &model.State{Generation: 1}
	s.Settings.Listen.Dashboard = address
	return s
}

func apply(ctx context.Context, s *Server, address string) string {
	if err := s.Apply(ctx, stateWith(address)); err != nil {
		return err.Error()
	}
	return ""
}

func has(t *testing.T, what, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%s lacks %q", what, w)
		}
	}
}
