// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/dnsserver"
	"github.com/fairlead-lb/fairlead/pkg/domain"
	"github.com/fairlead-lb/fairlead/pkg/health"
	"github.com/fairlead-lb/fairlead/pkg/ingress"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
	"github.com/fairlead-lb/fairlead/pkg/standby"
	"github.com/fairlead-lb/fairlead/pkg/tcproute"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeTarget remembers what it was given.
type fakeTarget struct {
	name   string
	serves []model.Feature

	mu      sync.Mutex
	applied []*model.State
}

func (f *fakeTarget) Name() string            { return f.name }
func (f *fakeTarget) Serves() []model.Feature { return f.serves }
func (f *fakeTarget) Apply(_ context.Context, s *model.State) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied = append(f.applied, s)
	return nil
}

func (f *fakeTarget) last() *model.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.applied) == 0 {
		return nil
	}
	return f.applied[len(f.applied)-1]
}

// fakeSource publishes one part.
type fakeSource struct{ part source.Part }

func (fakeSource) Name() string { return "file" }
func (f fakeSource) Run(ctx context.Context, publish func(source.Part)) error {
	publish(f.part)
	<-ctx.Done()
	return nil
}

// fakeFront is a tcpFront with one name.
type fakeFront struct{ problem string }

func (f fakeFront) Names() []tcproute.Name {
	return []tcproute.Name{{Service: name("a"), Kind: tcproute.Redis, Host: "a.example.com", TLS: "terminate", Active: 2, Problem: f.problem}}
}

func (fakeFront) Counts() []tcproute.Count {
	return []tcproute.Count{{Kind: "redis", Result: tcproute.Routed, N: 3}}
}
func (fakeFront) Sessions(model.ServiceName) []tcproute.Session { return nil }
func (fakeFront) Problems() []string                            { return nil }
func (fakeFront) Shutdown(context.Context) error                { return nil }

func name(project string) model.ServiceName { return model.ServiceName{Project: project, User: "u"} }

var (
	fixed    = netip.MustParseAddr("10.1.0.2")
	workload = netip.MustParseAddr("10.2.0.2")
)

func testPart() source.Part {
	port := []model.Port{{Service: 90, Container: 8090, Protocol: model.TCP}}
	backend := func(a netip.Addr) []model.Backend { return []model.Backend{{Addr4: a, Weight: 1}} }
	return source.Part{
		Settings: &model.Settings{},
		Services: []*model.Service{
			{Name: name("a"), Ports: port, Backends: backend(fixed)},
			{Name: name("b"), Ports: port, Backends: backend(workload), Workload: &model.Workload{Driver: "process", Scale: model.Scale{Min: 1}}},
			{Name: name("c"), Ports: port, Backends: backend(fixed), HTTP: []model.HTTPHost{{Host: "x"}}},
			{Name: name("d"), Ports: port, Backends: backend(fixed), HTTP: []model.HTTPHost{{Host: "y"}}},
		},
	}
}

// harness is an agent of fakes.
type harness struct {
	*Agent
	plane, other *fakeTarget
	stopped      chan *model.State // what the plane had when the workloads were stopped
	started      chan admin.Status
	done         chan error
	cancel       context.CancelFunc
}

func newHarness(t *testing.T, adjust func(*parts)) *harness {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "fairlead.yaml")
	if err := os.WriteFile(config, []byte("services: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &harness{
		plane:   &fakeTarget{name: "dataplane", serves: []model.Feature{model.FeatureL4}},
		other:   &fakeTarget{name: "activator", serves: []model.Feature{model.FeatureProcess}},
		stopped: make(chan *model.State, 1), started: make(chan admin.Status, 1), done: make(chan error, 1),
	}
	a, err := New(Config{
		ConfigPath: config, StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Started: func(s admin.Status, _ []admin.Service) { h.started <- s },
	})
	if err != nil {
		t.Fatal(err)
	}
	a.name = "@fairlead-test-" + strconv.Itoa(os.Getpid()) + t.Name()
	h.Agent = a
	a.build = func(a *Agent) (parts, error) {
		p := h.parts(t, a)
		if adjust != nil {
			adjust(&p)
		}
		return p, nil
	}
	return h
}

func (h *harness) parts(t *testing.T, a *Agent) parts {
	drains, err := admin.NewDrains(admin.DrainsConfig{Path: drainsFile(a.cfg.StateDir)})
	if err != nil {
		t.Fatal(err)
	}
	domains, err := domain.New(domain.Config{Path: domainsFile(a.cfg.StateDir)})
	if err != nil {
		t.Fatal(err)
	}
	w := &withdrawal{}
	return parts{
		sources: []source.Source{fakeSource{testPart()}, domains, drains, w},
		targets: [][]reconcile.Target{{h.plane, h.other}}, forward: []reconcile.Target{h.plane},
		withdrawal: w, drains: drains,
		tokenProblems: func() []string { return nil },
		certificates:  func() []autocert.Certificate { return nil },
		domains:       domains,
		loaded:        func(context.Context) error { return nil },
		naps:          activator.New(activator.Config{}),
		held:          func() []standby.Connection { return nil },
		heldCounts:    func() standby.Counts { return standby.Counts{} },
		locals:        func() map[model.ServiceName]uint64 { return nil },
		using:         func(model.ServiceName) []ingress.Use { return nil },
		pooled:        func(netip.Addr) int { return 0 },
		questions:     func() []dnsserver.Count { return nil },
		health:        health.New(health.Config{}), hop: func(netip.Addr) (nexthop.Hop, bool) { return nexthop.Hop{}, false },
		requests: func() []metrics.Requests { return nil }, drainFronts: func(context.Context) error { return nil },
		frontAddrs: func() (plain, secure net.Addr) { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}, nil },
		reload:     func() {}, configError: func() error { return nil }, configErrors: func() uint64 { return 3 },
		attached: func() ([]admin.Interface, []admin.Cgroup) {
			return []admin.Interface{{Name: "eth0", Role: "nic", Slot: 1}, {Name: "fl-b", Role: "workload", Slot: 2}}, nil
		},
		stats: func() (dataplane.Stats, error) {
			return dataplane.Stats{
				Packets: []dataplane.PacketCount{{Slot: 0, Packets: 1}, {Slot: 1, Packets: 2}, {Slot: 2, Packets: 3}},
				Services: []dataplane.ServiceCount{{
					Service: name("a"), Connections: 9,
					Port: model.Port{Service: 90, Container: 8090, Protocol: model.TCP},
				}},
				Flows: 5,
			}, nil
		},
		flows: func(_ context.Context, f dataplane.FlowFilter, yield func(dataplane.Flow) bool) error {
			for _, state := range []string{"established", "established", "closing"} {
				if !yield(dataplane.Flow{Service: name("a"), Backend: netip.AddrPortFrom(f.Backend, 8090), State: state}) {
					break
				}
			}
			return nil
		},
		tcp: fakeFront{},
		replicas: func() []activator.Replica {
			return []activator.Replica{{ID: "b-0", Service: name("b"), Addr4: workload, Phase: activator.Ready}}
		},
		instead: func(netip.AddrPort) string { return "" },

		labelProblems: func() []string { return nil },
		shutdown:      func(context.Context) error { h.stopped <- h.plane.last(); return nil },
		close:         func() {},
	}
}

func (h *harness) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	h.cancel = cancel
	go func() { h.done <- h.Run(ctx) }()
}

func wait[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing after 20 s", what)
		panic("unreachable")
	}
}

func TestLifeOfAnAgent(t *testing.T) {
	h := newHarness(t, nil)
	h.run(t)
	s := wait(t, "start", h.started)
	if !s.Ready || s.Counts.Services != 4 || s.Counts.Replicas != 4 || s.Config.Errors != 3 || s.Counts.Flows != 5 {
		t.Errorf("status at the start: %+v", s)
	}
	want := []admin.NotServed{{Feature: "expose.http", Services: []string{"c/u", "d/u"}}}
	if diff := cmp.Diff(want, s.NotServedYet); diff != "" {
		t.Error(diff)
	}

	c := admin.NewClient(h.cfg.RunDir)
	defer c.Close()
	res, err := c.Drain(t.Context(), admin.DrainRequest{Address: fixed.String()})
	if err != nil || res.Flows != 2 || len(res.Services) != 3 || res.Services[0].Flows != 2 {
		t.Errorf("drain: %+v, %v; want 2 flows of 3 services", res, err)
	}
	svc, err := c.Service(t.Context(), "a/u")
	if err != nil || svc.Ports[0].Connections != 9 {
		t.Errorf("service: %+v, %v; want 9 connections", svc, err)
	}

	h.Stop()
	atStop := wait(t, "stop of the workloads", h.stopped)
	if atStop == nil || serves(atStop, map[netip.Addr]bool{workload: true}) {
		t.Error("the workload was stopped before the data plane had taken it out of service")
	}
	if err := wait(t, "end", h.done); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(admin.SocketPath(h.cfg.RunDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after the end: %v", err)
	}
	h.cancel()
}

func TestStopAtOnceLeavesWorkloads(t *testing.T) {
	h := newHarness(t, nil)
	h.run(t)
	wait(t, "start", h.started)
	h.cancel()
	if err := wait(t, "end", h.done); err != nil {
		t.Error(err)
	}
	select {
	case <-h.stopped:
		t.Error("workloads were stopped; want them left to the next agent")
	default:
	}
}

func TestSecondStopLeavesWhatStillRuns(t *testing.T) {
	begun, killed := make(chan struct{}), make(chan struct{})
	h := newHarness(t, func(p *parts) {
		p.shutdown = func(ctx context.Context) error {
			close(begun)
			select {
			case <-killed: // the end of the process
			case <-ctx.Done():
				t.Error("the runner was told to kill")
			}
			return nil
		}
	})
	h.run(t)
	wait(t, "start", h.started)
	h.Stop()
	h.Stop()
	wait(t, "stop of the workloads", begun)
	h.cancel()
	if err := wait(t, "end", h.done); err == nil || !strings.Contains(err.Error(), "left to the next agent") {
		t.Errorf("error %v; want one that says that workloads are left", err)
	}
	close(killed)
}

func TestInvalidFirstConfig(t *testing.T) {
	h := newHarness(t, nil)
	if err := os.WriteFile(h.cfg.ConfigPath, []byte("servces: []\nnode: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := h.Run(t.Context())
	var config *ConfigError
	if !errors.As(err, &config) || strings.Count(err.Error(), h.cfg.ConfigPath) < 2 || !strings.HasPrefix(err.Error(), h.cfg.ConfigPath+":1:") {
		t.Errorf("error %v; want a ConfigError with a line for each fault", err)
	}
	if _, err := os.Stat(h.cfg.RunDir); !errors.Is(err, os.ErrNotExist) {
		t.Error("an agent with an invalid config made its run directory")
	}
}

func TestConfigThatTurnsInvalidBeforeItIsServed(t *testing.T) {
	h := newHarness(t, func(p *parts) {
		fatal := make(chan error, 1)
		p.fatal = fatal
		p.sources[0] = required{failingSource{}, fatal}
	})
	var config *ConfigError
	if err := h.Run(t.Context()); !errors.As(err, &config) {
		t.Errorf("error %v, want a ConfigError", err)
	}
	if s := h.plane.last(); s != nil {
		t.Errorf("a state without a config was applied: %+v", s)
	}
}

// failingSource is a file that cannot be used.
type failingSource struct{ fakeSource }

func (failingSource) Run(context.Context, func(source.Part)) error {
	return file.Errors{{File: "f", Line: 1, Col: 1, Problem: "bad"}}
}

func TestBrokenWorkerIsToldAndRunAgain(t *testing.T) {
	again := make(chan struct{}, 8)
	h := newHarness(t, func(p *parts) {
		p.workers = []worker{{"next hops", func(context.Context) error {
			select {
			case again <- struct{}{}:
			default:
			}
			return errors.New("netlink went away")
		}}}
	})
	h.run(t)
	wait(t, "first run", again)
	wait(t, "second run", again)
	wait(t, "start", h.started)
	if p := h.engine.problems(); len(p) != 1 || !strings.Contains(p[0], "netlink went away") {
		t.Errorf("problems: %q", p)
	}
	h.cancel()
	wait(t, "end", h.done)
}

func TestTraffic(t *testing.T) {
	h := newHarness(t, nil)
	h.run(t)
	wait(t, "start", h.started)
	defer func() { h.cancel(); wait(t, "end", h.done) }()
	got, err := h.traffic()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"other": "in", "eth0": "in", "fl-b": "out"}
	for _, p := range got.Packets {
		if want[p.Interface] != p.Direction {
			t.Errorf("interface %s direction %s, want %v", p.Interface, p.Direction, want)
		}
	}
	if len(got.Packets) != 3 || len(got.Services) != 1 || got.Services[0].Name != "a/u" {
		t.Errorf("traffic: %+v", got)
	}
	if b := h.backends(); len(b) != 4 || !b[0].Healthy {
		t.Errorf("backends: %v", b)
	}
}

func TestUnserved(t *testing.T) {
	s := &model.State{Services: testPart().Services}
	s.Settings.Listen.DNS = "127.0.0.1:53"
	got := unserved(s, []reconcile.Target{&fakeTarget{serves: []model.Feature{model.FeatureL4}}})
	want := []notServed{
		{feature: model.FeatureDNS},
		{feature: model.FeatureProcess, services: []string{"b/u"}},
		{feature: model.FeatureHTTP, services: []string{"c/u", "d/u"}},
	}
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if !got[i].equal(want[i]) {
			t.Errorf("got %v, want %v", got[i], want[i])
		}
	}
}
