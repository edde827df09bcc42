// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ reconcile.Target = (*Activator)(nil)

// fake is a Runner that is told what it runs.
type fake struct {
	driver string
	runErr chan error    // what Run returns
	adopt  chan struct{} // closed: Run has adopted

	mu       sync.Mutex
	replicas []Replica
	specs    []Spec
	applyErr error
	down     bool
	changed  func()
}

func newFake(driver string) *fake {
	return &fake{driver: driver, runErr: make(chan error, 1), adopt: make(chan struct{})}
}

func (f *fake) Driver() string { return f.driver }

func (f *fake) Apply(_ context.Context, specs []Spec) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs = specs
	return f.applyErr
}

func (f *fake) Replicas() []Replica {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.replicas)
}

func (f *fake) Run(ctx context.Context, changed func()) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-f.runErr:
		return err
	case <-f.adopt:
	}
	f.mu.Lock()
	f.changed = changed
	f.mu.Unlock()
	changed()
	<-ctx.Done()
	return nil
}

func (f *fake) Shutdown(context.Context) error {
	f.set()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	return nil
}

func (f *fake) set(replicas ...Replica) {
	f.mu.Lock()
	f.replicas = replicas
	changed := f.changed
	f.mu.Unlock()
	if changed != nil {
		changed()
	}
}

func replica(id string, phase Phase, addr string) Replica {
	user, _, _ := strings.Cut(id, ".")
	r := Replica{ID: id, Service: model.ServiceName{Project: "p", User: user}, Phase: phase}
	if addr != "" {
		r.Addr4 = netip.MustParseAddr(addr)
	}
	return r
}

// published runs the Source and returns its Parts, in words.
func published(t *testing.T, a *Activator) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	parts, done := make(chan string, 100), make(chan error, 1)
	go func() { done <- a.Source().Run(ctx, func(p source.Part) { parts <- describe(p) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return parts
}

func describe(p source.Part) string {
	var out []string
	for _, bs := range p.Replicas {
		for _, b := range bs {
			out = append(out, b.Replica+" "+b.Addr4.String()+" "+b.Condition.String())
		}
	}
	slices.SortFunc(out, cmp.Compare)
	return strings.Join(out, ", ")
}

func expect(t *testing.T, parts <-chan string, want string) {
	t.Helper()
	select {
	case got := <-parts:
		if got != want {
			t.Errorf("published %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("nothing published, want %q", want)
	}
}

func quiet(runners ...Runner) *Activator {
	return New(Config{Runners: runners, Log: slog.New(slog.DiscardHandler), Retry: time.Millisecond})
}

func TestFirstPartWaitsForEveryRunner(t *testing.T) {
	one, two := newFake("process"), newFake("docker")
	one.replicas = []Replica{replica("a.1", Ready, "10.0.0.2"), replica("a.2", Starting, "10.0.0.3")}
	two.replicas = []Replica{replica("b.1", Stopping, "10.0.0.4"), replica("b.2", Stopping, ""), replica("b.3", Backoff, "10.0.0.5")}
	a := quiet(one, two)
	parts := published(t, a)
	close(one.adopt)
	select {
	case got := <-parts:
		t.Fatalf("published %q before the second runner had adopted", got)
	case <-time.After(20 * time.Millisecond):
	}
	close(two.adopt)
	expect(t, parts, "a.1 10.0.0.2 ready, b.1 10.0.0.4 draining")
	one.set(replica("a.2", Ready, "10.0.0.3"), replica("a.3", Starting, "10.0.0.6"))
	expect(t, parts, "a.2 10.0.0.3 ready, b.1 10.0.0.4 draining")
	one.set(replica("a.2", Ready, "10.0.0.3")) // nothing a target could see
	two.set()
	expect(t, parts, "a.2 10.0.0.3 ready")
	var ids []string
	for _, r := range a.Replicas() {
		ids = append(ids, r.ID)
	}
	if d := diff.Diff([]string{"a.2"}, ids); d != "" {
		t.Error(d)
	}
}

func TestShutdownWithdrawsFirst(t *testing.T) {
	f := newFake("process")
	f.replicas = []Replica{replica("a.1", Ready, "10.0.0.2")}
	close(f.adopt)
	a := quiet(f)
	parts := published(t, a)
	expect(t, parts, "a.1 10.0.0.2 ready")
	if err := a.Shutdown(t.Context()); err != nil || !f.down {
		t.Fatalf("down %v, %v", f.down, err)
	}
	expect(t, parts, "")
	f.set(replica("a.1", Ready, "10.0.0.2"))
	select {
	case got := <-parts:
		t.Errorf("published %q after the end", got)
	case <-time.After(20 * time.Millisecond):
	}
}

func TestApply(t *testing.T) {
	f := newFake("process")
	f.applyErr = errors.New("service p/a: no")
	a := quiet(f)
	workload := func(driver string, m int, paused bool) *model.Workload {
		return &model.Workload{Driver: driver, Scale: model.Scale{Min: m, Paused: paused}}
	}
	name := func(user string) model.ServiceName { return model.ServiceName{Project: "p", User: user} }
	s := &model.State{Services: []*model.Service{
		{Name: name("a"), Drain: time.Second, Workload: workload("process", 0, false)},
		{Name: name("b"), Workload: workload("process", 3, false)},
		{Name: name("c"), Workload: workload("process", 3, true)},
		{Name: name("d"), Workload: workload("docker", 1, false)},
		{Name: name("e")},
	}}
	if err := a.Apply(t.Context(), s); err == nil || err.Error() != "run workloads of driver process: service p/a: no" {
		t.Errorf("error %v", err)
	}
	got := map[string]int{}
	for _, spec := range f.specs {
		got[spec.Service.User] = spec.Replicas
	}
	if d := diff.Diff(map[string]int{"a": 1, "b": 3, "c": 0}, got); d != "" {
		t.Error(d)
	}
	if f.specs[0].Drain != time.Second {
		t.Errorf("drain %s", f.specs[0].Drain)
	}
	if d := diff.Diff([]model.Feature{model.FeatureProcess, model.FeatureSleep, model.FeatureIdentity, model.FeatureHTTPHead}, a.Serves()); d != "" {
		t.Error(d)
	}
}

func TestFailingRunnerIsReportedAndRunAgain(t *testing.T) {
	f := newFake("process")
	f.runErr <- errors.New("no cgroup2")
	a := quiet(f)
	s := &model.State{Services: []*model.Service{{Workload: &model.Workload{Driver: "process"}}}}
	parts := published(t, a)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := a.Apply(t.Context(), s); err != nil && err.Error() == "run driver process: no cgroup2" {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("error %v", err)
		}
	}
	f.set(replica("a.1", Ready, "10.0.0.2"))
	close(f.adopt)
	expect(t, parts, "a.1 10.0.0.2 ready") // the first: nothing was withdrawn meanwhile
	if err := a.Apply(t.Context(), s); err != nil {
		t.Error(err)
	}
}
