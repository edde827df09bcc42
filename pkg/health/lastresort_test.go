// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func TestLastResort(t *testing.T) {
	const (
		only80 = "no replica passes its check on port 80 over IPv4, so that takes none of them out of service"
		only81 = "no replica passes its check on port 81 over IPv4, so that takes none of them out of service"
	)
	tests := []struct {
		name       string
		service    model.Service
		fail       string // ADDRESS or ADDRESS:PORT, separated by blanks
		down       string // of those published, likewise
		lastResort string
	}{
		{"one of two", svc("a", "10.0.0.1", "10.0.0.2"), "10.0.0.1", "10.0.0.1:80", ""},
		{"all", svc("a", "10.0.0.1", "10.0.0.2"), "10.0.0.1 10.0.0.2", "", only80},
		{"the only one", svc("a", "10.0.0.1"), "10.0.0.1", "", only80},
		{"all but a drained one", svc("a", "10.0.0.1", "!10.0.0.2"), "10.0.0.1", "", only80},
		{"all but one held down by others", svc("a", "10.0.0.1", "-10.0.0.2"), "10.0.0.1", "", only80},
		{"a drained one", svc("a", "10.0.0.1", "!10.0.0.2"), "10.0.0.2", "", ""},
		{"nobody is left", svc("a", "!10.0.0.1", "-10.0.0.2"), "10.0.0.1 10.0.0.2", "", ""},
		{"a port nobody has", ports(svc("a", "10.0.0.1", "10.0.0.2"), 80, 81), "10.0.0.1 10.0.0.2:81", "10.0.0.1:80", only81},
		{
			"a family nobody has", svc("a", "10.0.0.1+fd00::1", "10.0.0.2+fd00::2"), "fd00::1 fd00::2 10.0.0.2", "10.0.0.2:80",
			strings.ReplaceAll(only80, "IPv4", "IPv6"),
		},
		{
			"each fails something", ports(svc("a", "10.0.0.1", "10.0.0.2"), 80, 81), "10.0.0.1:80 10.0.0.2:81", "",
			"only replicas that fail another check pass on port 80 over IPv4 and port 81 over IPv4, so they stay in service",
		},
		{"one port with a third", ports(svc("a", "10.0.0.1", "10.0.0.2", "10.0.0.3"), 80, 81), "10.0.0.1:80 10.0.0.2:81", "10.0.0.1:80 10.0.0.2:81", ""},
		{
			"sole answer on a port", ports(svc("a", "10.0.0.1", "10.0.0.2", "10.0.0.3"), 80, 81), "10.0.0.1:80 10.0.0.2:81 10.0.0.3", "10.0.0.3:80 10.0.0.3:81",
			"only replicas that fail another check pass on port 80 over IPv4 and port 81 over IPv4, so they stay in service",
		},
		{
			"gone with the other family", svc("a", "10.0.0.1+fd00::1", "10.0.0.2"), "10.0.0.1 fd00::1", "10.0.0.1:80",
			strings.ReplaceAll(only80, "IPv4", "IPv6"),
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := run(t, Config{})
				w.fail(strings.Fields(tt.fail)...)
				w.apply(tt.service)
				pass(30 * time.Second)
				var want []string
				for d := range strings.FieldsSeq(tt.down) {
					want = append(want, "p/a "+d+" down")
				}
				w.want(strings.Join(want, ", "))
				if s := w.service("a"); s.LastResort != tt.lastResort {
					t.Errorf("last resort %q, want %q", s.LastResort, tt.lastResort)
				}
				if s := w.Stats(); (s.LastResorts == 1) != (tt.lastResort != "") {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestLastResortEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.apply(svc("a", "10.0.0.1", "10.0.0.2"))
		pass(10 * time.Second)
		w.fail("10.0.0.1", "10.0.0.2")
		pass(10 * time.Second)
		w.want("")
		if p := w.Problems(); len(p) != 1 || !strings.HasPrefix(p[0], "service p/a: last resort: no replica passes") {
			t.Errorf("problems %q", p)
		}
		if s := w.service("a"); s.Checks != 2 || s.Healthy != 0 {
			t.Errorf("%+v", s)
		}
		b := w.Backend(name("a"), model.Backend{Addr4: netip.MustParseAddr("10.0.0.1")})
		if !b.Checked || b.Healthy || !strings.HasPrefix(b.Reason, "connection refused on 10.0.0.1:80 (") {
			t.Errorf("%+v", b)
		}
		w.heal("10.0.0.2")
		pass(5 * time.Second)
		w.want("p/a 10.0.0.1:80 down")
		if log := w.logged(); len(w.Problems()) != 0 || strings.Count(log, "service is at its last resort") != 1 ||
			strings.Count(log, "service has left its last resort") != 1 {
			t.Errorf("problems %q, log %s", w.Problems(), log)
		}
		w.apply(svc("a", "10.0.0.1", "!10.0.0.2")) // the only fit one is drained
		pass(settle)
		w.want("")
		warnings := strings.Count(w.logged(), "level=WARN")
		w.fail("10.0.0.2")
		pass(10 * time.Second)
		if log := w.logged(); w.check("10.0.0.2:80").Healthy || strings.Count(log, "level=WARN") != warnings {
			t.Errorf("a drained replica failed with a warning: %s", log)
		}
	})
}

// TestJudgingComesToRest has the checker judge its own effect on the state
// until nothing changes, from every kind of start, and looks at the result:
// whoever could serve before still can, and what is passed over is said.
func TestJudgingComesToRest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 5000 {
		s, others := randomService(rnd)
		for range 3 { // results come, others change their mind
			for _, k := range s.checks {
				if rnd.IntN(2) == 0 {
					k.up = rnd.IntN(3) > 0
				}
			}
			i := rnd.IntN(len(others))
			others[i] = model.Condition(max(0, rnd.IntN(6)-3))
			steps := 0
			for s.merge(others); s.judge(); s.merge(others) {
				if steps++; steps > len(others)+1 {
					t.Fatalf("round %d: no rest after %d steps", round, steps)
				}
			}
			if fault := s.fault(others); fault != "" {
				t.Fatalf("round %d: %s; published %v", round, fault, s.down)
			}
		}
	}
}

func randomService(rnd *rand.Rand) (*service, []model.Condition) {
	m := ports(svc("a"), []int{80, 81, 82}[:1+rnd.IntN(3)]...)
	s := &service{model: &m, ports: tcpPorts(m.Ports), checks: map[netip.AddrPort]*check{}}
	for i := range 1 + rnd.IntN(4) {
		b := model.Backend{Addr4: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}
		if rnd.IntN(2) == 0 {
			b.Addr6 = netip.MustParseAddr(fmt.Sprintf("fd00::%d", i+1))
		}
		m.Backends = append(m.Backends, b)
		for _, a := range b.Addrs() {
			for _, p := range s.ports {
				to := netip.AddrPortFrom(a, p)
				s.checks[to] = &check{svc: s, to: to, verdict: verdict{up: true}}
			}
		}
	}
	for _, b := range m.Backends {
		s.replicas = append(s.replicas, s.of(b))
	}
	return s, make([]model.Condition, len(m.Backends))
}

// merge does to the service what source.Merge does.
func (s *service) merge(others []model.Condition) {
	for i := range s.model.Backends {
		b := &s.model.Backends[i]
		b.Condition = others[i]
		for _, d := range s.down {
			if d.Addr == b.Addr4 || d.Addr == b.Addr6 {
				b.Condition = model.Down
			}
		}
	}
}

// fault says what is wrong with a merged service at rest.
func (s *service) fault(others []model.Condition) string {
	could, passes, faultless := map[group]bool{}, map[group]bool{}, map[group]bool{}
	for i, b := range s.model.Backends {
		for _, k := range s.of(b) {
			could[k.group()] = could[k.group()] || others[i] == model.Ready && k.up
			passes[k.group()] = passes[k.group()] || b.Condition == model.Ready && k.up
		}
	}
	failing := func(k *check) bool { return !k.up && could[k.group()] }
	for i, b := range s.model.Backends {
		if ks := s.of(b); others[i] == model.Ready && !slices.ContainsFunc(ks, failing) {
			for _, k := range ks {
				faultless[k.group()] = true
			}
		}
	}
	for g := range could {
		if could[g] && !passes[g] {
			return fmt.Sprintf("%s had an answer and has none", g)
		}
	}
	for i, b := range s.model.Backends {
		if others[i] != model.Ready {
			continue
		}
		ks := s.of(b)
		bad := slices.ContainsFunc(ks, failing)
		spare := !slices.ContainsFunc(ks, func(k *check) bool { return k.up && !faultless[k.group()] })
		if want := bad && spare; want != (b.Condition == model.Down) {
			return fmt.Sprintf("%s is %s, fails %v, can be spared %v", b.Addr4, b.Condition, bad, spare)
		}
	}
	return ""
}

// fixed is a source that publishes services once.
type fixed []model.Service

func (fixed) Name() string { return "fixed" }

func (f fixed) Run(ctx context.Context, publish func(source.Part)) error {
	publish(source.Part{Services: state(f...).Services})
	<-ctx.Done()
	return nil
}

// TestWithMergeAndLoop runs the checker as the agent does: its conditions come
// back to it in the state.
func TestWithMergeAndLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, down: map[string]error{}, dials: map[string][]time.Time{}}
		w.fail("10.0.0.2")
		w.Checker = New(Config{Dial: w.dial, Log: slog.New(slog.DiscardHandler)})
		loop := reconcile.New(w, reconcile.Config{})
		merge := source.New(source.Config{Sources: []source.Source{
			fixed{svc("a", "10.0.0.1", "10.0.0.2"), svc("b", "!10.0.0.2", "10.0.0.3")}, w,
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{}, 2)
		var states []string
		go func() { loop.Run(ctx); done <- struct{}{} }()
		go func() {
			_ = merge.Run(ctx, func(s *model.State) { states = append(states, ready(s)); loop.Submit(s) })
			done <- struct{}{}
		}()
		pass(10 * time.Minute)
		w.fail("10.0.0.1", "10.0.0.3")
		pass(10 * time.Minute)
		w.heal("10.0.0.2")
		pass(10 * time.Minute)
		cancel()
		<-done
		<-done
		want := []string{"a1 a2 b3", "a1 b3", "a1 a2 b3", "a2 b3"}
		if !slices.Equal(states, want) {
			t.Errorf("ready in the states: %q, want %q", states, want)
		}
	})
}

func ready(s *model.State) string {
	var out []string
	for _, svc := range s.Services {
		for _, b := range svc.Backends {
			if b.Condition == model.Ready {
				out = append(out, svc.Name.User+b.Addr4.String()[len("10.0.0."):])
			}
		}
	}
	return strings.Join(out, " ")
}
