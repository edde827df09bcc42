// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testServices = []Service{
	{
		Name: "test/user", Title: "Тест/user", VIP: netip.MustParseAddr("198.18.0.10"), Ports: []Port{{Service: 90, Container: 8090, Protocol: "tcp"}},
		Replicas: []Replica{{Addr4: netip.MustParseAddr("10.1.0.2"), Weight: 1, Condition: "ready"}}, NotServedYet: []string{},
	},
	{Name: "web/user", Ports: []Port{}, Replicas: []Replica{}, NotServedYet: []string{}},
}

func testViews() Views {
	return Views{
		Status: func() Status {
			s := Status{
				Version: "v1", PID: 7, Config: Config{Generation: 4},
				Targets: []reconcile.Status{{Target: "dataplane", Generation: 4}},
			}
			s.Judge()
			return s
		},
		Services:     func() []Service { return testServices },
		Workloads:    func() []Workload { return nil },
		Domains:      func() Domains { return Domains{Note: "later"} },
		Certificates: func() Certificates { return Certificates{Note: "later"} },
		Domain: func(_ context.Context, r DomainRequest) (DomainResult, error) {
			if r.Host != "shop.example.com" {
				return DomainResult{}, &Refusal{Code: 409, Err: errors.New("conflict: it is taken")}
			}
			return DomainResult{Host: r.Host, Records: []DomainRecord{{Type: "A"}}}, nil
		},
		Flows: func(_ context.Context, q FlowQuery, yield func(Flow) bool) error {
			for i := range 20_000 {
				f := Flow{Service: "test/user", Protocol: "tcp", Client: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(i))}
				if q.Service != "" && q.Service != f.Service {
					continue
				}
				if !yield(f) {
					return nil
				}
			}
			return errors.New("map went away")
		},
		Drain: func(_ context.Context, r DrainRequest) (DrainResult, error) {
			if r.Address != "10.1.0.2" {
				return DrainResult{}, ErrUnknownAddress
			}
			return DrainResult{Address: r.Address, Draining: !r.Undo, Changed: true}, nil
		},
	}
}

// start runs a server in a new directory and returns a client of it.
func start(t *testing.T, v Views) (*Client, string) {
	t.Helper()
	dir := t.TempDir()
	srv, err := Listen(ServerConfig{RunDir: dir, Views: v})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	c := NewClient(dir)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	return c, dir
}

func TestReadsOverTheSocket(t *testing.T) {
	c, dir := start(t, testViews())
	fi, err := os.Stat(SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v, want 0600", fi.Mode().Perm())
	}
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Ready || s.Verdict != "fairlead is running: 0 services, 0 replicas, all targets at generation 4" {
		t.Errorf("status: ready %v, verdict %q", s.Ready, s.Verdict)
	}
	if s.Interfaces == nil || s.NotServedYet == nil || s.Problems == nil {
		t.Error("status has null where an array belongs")
	}
	got, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(testServices, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("services differ after the wire:\n%s", diff)
	}
	for _, name := range []string{"test/user", "Тест/user"} {
		if svc, err := c.Service(t.Context(), name); err != nil || svc.Name != "test/user" {
			t.Errorf("service %q: %v, %v", name, svc.Name, err)
		}
	}
	if _, err = c.Service(t.Context(), "no/such"); err == nil || !strings.Contains(err.Error(), "there is test/user, web/user") {
		t.Errorf("unknown service: %v, want the known ones named", err)
	}
	if d, err := c.Domains(t.Context()); err != nil || d.Domains == nil || d.Note != "later" {
		t.Errorf("domains: %+v, %v", d, err)
	}
	if _, err := c.Certificates(t.Context()); err != nil {
		t.Error(err)
	}
	d, err := c.Domain(t.Context(), DomainRequest{Verb: "check", Host: "shop.example.com"})
	if err != nil || len(d.Records) != 1 || d.Records[0].Found == nil || d.Records[0].Want == nil {
		t.Errorf("domain: %+v, %v; want a record with arrays", d, err)
	}
	if _, err := c.Domain(t.Context(), DomainRequest{Verb: "add", Host: "other"}); err == nil || err.Error() != "conflict: it is taken" {
		t.Errorf("domain that is taken: %v", err)
	}
	if w, err := c.Workloads(t.Context()); err != nil || w == nil {
		t.Errorf("workloads: %v, %v; want an empty array", w, err)
	}
}

func TestFlowsAreStreamed(t *testing.T) {
	c, _ := start(t, testViews())
	n := 0
	count := func(Flow) bool { n++; return true }
	if err := c.Flows(t.Context(), FlowQuery{Service: "Тест/user", Limit: 300}, count); err != nil || n != 300 {
		t.Errorf("limited: %d flows, %v; want 300", n, err)
	}
	n = 0
	err := c.Flows(t.Context(), FlowQuery{}, count)
	if n != 20_000 || err == nil || !strings.Contains(err.Error(), "map went away") {
		t.Errorf("an error at the end: %d flows, %v", n, err)
	}
	n = 0
	if err := c.Flows(t.Context(), FlowQuery{}, func(Flow) bool { n++; return n < 5 }); err != nil || n != 5 {
		t.Errorf("reader that stops: %d flows, %v", n, err)
	}
	if err := c.Flows(t.Context(), FlowQuery{Service: "no/such"}, count); err == nil {
		t.Error("unknown service: no error")
	}
}

func TestErrorsAreJSON(t *testing.T) {
	c, _ := start(t, testViews())
	for path, want := range map[string]string{
		"/v1/nothing":            "no such call",
		"/v1/flows?client=x":     `client "x": want an IP address`,
		"/v1/flows?limit=-1":     `limit "-1"`,
		"/v1/services/test/nope": "no service",
	} {
		if _, err := c.call(t.Context(), "GET", path, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if _, err := c.call(t.Context(), "POST", "/v1/drain", map[string]string{"adress": "x"}, nil); err == nil || !strings.Contains(err.Error(), "unknown field") {
		t.Errorf("drain with an unknown field: %v", err)
	}
	if _, err := c.Drain(t.Context(), DrainRequest{Address: "10.9.9.9"}); err == nil {
		t.Error("drain of an unknown address: no error")
	}
	res, err := c.Drain(t.Context(), DrainRequest{Address: "10.1.0.2"})
	if err != nil || !res.Draining || res.Services == nil {
		t.Errorf("drain: %+v, %v", res, err)
	}
}

func TestListen(t *testing.T) {
	t.Run("replaces a stale socket", func(t *testing.T) {
		dir := t.TempDir()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketPath(dir)})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		_ = l.Close()
		s, err := Listen(ServerConfig{RunDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		if _, err := os.Stat(SocketPath(dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("socket after Close: %v, want none", err)
		}
	})
	t.Run("leaves a live one alone", func(t *testing.T) {
		_, dir := start(t, testViews())
		if _, err := Listen(ServerConfig{RunDir: dir}); err == nil || !strings.Contains(err.Error(), "somebody answers") {
			t.Errorf("error %v, want one that says somebody answers", err)
		}
	})
	t.Run("leaves a file alone", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(SocketPath(dir), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(ServerConfig{RunDir: dir}); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("error %v, want one that says it is not a socket", err)
		}
	})
	t.Run("names a path that is too long", func(t *testing.T) {
		if _, err := Listen(ServerConfig{RunDir: t.TempDir() + strings.Repeat("/long", 30)}); err == nil || !strings.Contains(err.Error(), "shorter --run") {
			t.Errorf("error %v, want advice", err)
		}
	})
}

func TestNoAgent(t *testing.T) {
	c := NewClient(t.TempDir())
	defer c.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("error %v, want ErrNoAgent", err)
	}
}

func TestVerdict(t *testing.T) {
	at := func(target string, gen uint64, err string) reconcile.Status {
		return reconcile.Status{Target: target, Generation: gen, Error: err}
	}
	for _, tc := range []struct {
		name  string
		s     Status
		want  string
		ready bool
	}{
		{
			"starting",
			Status{Sources: []source.Status{{Name: "file"}, {Name: "operator", Synced: true}}},
			"fairlead is starting: waiting for source file", false,
		},
		{
			"one behind",
			Status{Config: Config{Generation: 5}, Targets: []reconcile.Status{at("attach", 4, ""), at("dataplane", 5, "")}},
			"fairlead is running with trouble: 0 services, 0 replicas, attach not at generation 5", false,
		},
		{
			"one failed",
			Status{Config: Config{Generation: 5}, Targets: []reconcile.Status{at("attach", 5, "no eth0")}},
			"fairlead is running with trouble: 0 services, 0 replicas, attach not at generation 5", false,
		},
		{
			"refused config",
			Status{Config: Config{Generation: 2, Error: "x"}, Counts: Counts{Services: 1, Replicas: 2}},
			"fairlead is running: 1 service, 2 replicas, all targets at generation 2; the config file was refused and the last good one is in force", true,
		},
		{"stopping", Status{Config: Config{Generation: 2}, Stopping: true}, "fairlead is stopping: draining its workloads", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.s.Judge()
			if tc.s.Verdict != tc.want || tc.s.Ready != tc.ready {
				t.Errorf("got %v %q\nwant %v %q", tc.s.Ready, tc.s.Verdict, tc.ready, tc.want)
			}
		})
	}
}

func TestNewService(t *testing.T) {
	m := model.Service{
		Name: model.ServiceName{Project: "a", User: "b"}, Ports: []model.Port{{Service: 80, Container: 8080, Protocol: model.UDP}},
		Backends: []model.Backend{{Addr4: netip.MustParseAddr("10.0.0.1"), Weight: 1}, {Addr4: netip.MustParseAddr("10.0.0.2"), Weight: 1, Condition: model.Down}},
	}
	s := NewService(&m)
	if s.Ready() != 1 || s.Wanted != 2 || s.Ports[0].Protocol != "udp" || s.Replicas[1].Condition != "down" {
		t.Errorf("view: %+v", s)
	}
	m.Workload = &model.Workload{Driver: "process", Scale: model.Scale{Min: 3}}
	if s = NewService(&m); s.Wanted != 3 || s.Workload != "process" {
		t.Errorf("workload: wanted %d of %q", s.Wanted, s.Workload)
	}
	m.Workload.Scale.Paused = true
	if s = NewService(&m); s.Wanted != 0 {
		t.Errorf("paused: wanted %d", s.Wanted)
	}
}
