// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// dozer is a fake Runner that can be told of one service, and is in use as it
// is told. It starts what it is asked to as start says.
type dozer struct {
	*fake
	open   int
	scaled []int
	start  func(*dozer) // called when a replica is wanted; nil: it becomes ready
}

func (d *dozer) Connections(model.ServiceName) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open, nil
}

func (d *dozer) use(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = n
}

func (d *dozer) Scale(name model.ServiceName, n int, _ bool) bool {
	d.mu.Lock()
	d.scaled = append(d.scaled, n)
	start := d.start
	d.mu.Unlock()
	switch {
	case n == 0:
		d.set()
	case start != nil:
		start(d)
	default:
		d.set(replica("a.1", Ready, "10.0.0.1"))
	}
	return true
}

var napper = model.ServiceName{Project: "p", User: "a"}

// napping is an Activator of one service that sleeps, whose Source runs, and
// the last Part that it published.
func napping(t *testing.T, d *dozer, file string) (a *Activator, last func() model.Sleep) {
	t.Helper()
	return nappingWith(t, d, d.fake, file)
}

func nappingWith(t *testing.T, r Runner, d *fake, file string) (a *Activator, last func() model.Sleep) {
	t.Helper()
	a = New(Config{Runners: []Runner{r}, SleepFile: file})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	parts := make(chan source.Part, 1000)
	go func() {
		defer close(done)
		_ = a.Source().Run(ctx, func(p source.Part) { parts <- p })
	}()
	t.Cleanup(func() { cancel(); <-done })
	close(d.adopt)
	var now model.Sleep
	last = func() model.Sleep {
		for synctest.Wait(); len(parts) > 0; {
			now = (<-parts).Sleep[napper]
		}
		return now
	}
	last()
	st := &model.State{Generation: 1, Services: []*model.Service{{
		Name: napper, Ports: []model.Port{{Service: 80, Container: 8080, Protocol: model.TCP}},
		Workload: &model.Workload{Driver: "process", Scale: model.Scale{Max: 1, Idle: 10 * time.Second, StartTimeout: 5 * time.Second, Queue: 3}},
	}}}
	if err := a.Apply(ctx, st); err != nil {
		t.Fatal(err)
	}
	return a, last
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// asleepNow tells the Activator that the data plane holds new connections.
func asleepNow(a *Activator) { applied(a, a.partOf(nil).Naps[napper]) }

func applied(a *Activator, nap uint64) {
	a.Applied(&model.State{Services: []*model.Service{{Name: napper, Sleep: model.Asleep, Nap: nap}}})
}

// Row W02: one start for all who wait, no more of them than fit.
func TestW02OneStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process"), start: func(*dozer) {}}
		a, last := napping(t, d, "")
		want(t, "at first", last(), model.Asleep)
		errs := make(chan error, 10)
		for range 5 {
			go func() {
				_, err := a.Wake(t.Context(), napper, "connection", "test")
				errs <- err
			}()
		}
		synctest.Wait()
		for range 2 {
			if err := <-errs; !errors.Is(err, ErrQueueFull) {
				t.Errorf("more than the queue holds: %v", err)
			}
		}
		want(t, "while it starts", last(), model.Asleep)
		d.set(replica("a.1", Ready, "10.0.0.1"))
		for range 3 {
			if err := <-errs; err != nil {
				t.Errorf("one that waits: %v", err)
			}
		}
		want(t, "starts", len(d.scaled), 1)
		want(t, "ready", last(), model.Awake)
	})
}

// Rows W03 and D03: what does not start is said at once for a while, and tried
// again later.
func TestW03Failures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		a, last := napping(t, d, "")
		d.start = func(d *dozer) {
			go func() {
				r := replica("a.1", Backoff, "10.0.0.1")
				r.Reason = "exit status 3"
				for i := range maxFalls {
					r.Restarts = i + 1
					d.set(r)
					time.Sleep(time.Millisecond)
				}
			}()
		}
		_, err := a.Wake(t.Context(), napper, "connection", "test")
		if err == nil || !strings.Contains(err.Error(), "exit status 3") {
			t.Fatalf("a crash loop: %v", err)
		}
		want(t, "afterwards", last(), model.Asleep)
		begun, starts := time.Now(), len(d.scaled)
		if _, again := a.Wake(t.Context(), napper, "connection", "test"); again == nil || time.Since(begun) != 0 || len(d.scaled) != starts {
			t.Errorf("right after it failed: %v after %s", again, time.Since(begun))
		}
		time.Sleep(failMin)
		d.mu.Lock()
		d.start = func(d *dozer) { d.set(replica("a.1", Starting, "")) }
		d.mu.Unlock()
		begun = time.Now()
		if _, err := a.Wake(t.Context(), napper, "request", "test"); !errors.Is(err, ErrTimeout) || time.Since(begun) != 5*time.Second {
			t.Errorf("a start that hangs: %v after %s", err, time.Since(begun))
		}
		time.Sleep(failMax)
		d.mu.Lock()
		d.start = nil
		d.mu.Unlock()
		if _, err := a.Wake(t.Context(), napper, "request", "test"); err != nil {
			t.Errorf("when it starts again: %v", err)
		}
		counts, times := a.Wakes()
		if len(counts) != 4 || len(times) != 2 || times[0].Count != 1 {
			t.Errorf("counted: %v, %v", counts, times)
		}
	})
}

// Row W05: idle is the time without connections, and nothing is stopped before
// the data plane holds new ones and none came in between.
func TestW05Idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		a, last := napping(t, d, "")
		if _, err := a.Wake(t.Context(), napper, "connection", "test"); err != nil {
			t.Fatal(err)
		}
		d.use(1)
		time.Sleep(time.Minute)
		want(t, "with an open connection", last(), model.Awake)
		d.use(0)
		time.Sleep(8 * time.Second)
		want(t, "before idle is over", last(), model.Awake)
		time.Sleep(4 * time.Second)
		want(t, "after it", last(), model.Asleep)
		want(t, "replicas while the data plane does not know", len(d.Replicas()), 1)
		d.use(1) // let through at the last moment
		asleepNow(a)
		time.Sleep(settleTime + time.Millisecond)
		want(t, "a connection at the last moment", last(), model.Awake)
		d.use(0)
		time.Sleep(13 * time.Second)
		want(t, "dozing", last(), model.Asleep)
		if _, err := a.Wake(t.Context(), napper, "connection", "test"); err != nil {
			t.Fatal(err)
		}
		want(t, "a held connection while it dozes", last(), model.Awake)
		time.Sleep(13 * time.Second)
		asleepNow(a)
		time.Sleep(settleTime + time.Millisecond)
		want(t, "in the end", last(), model.Asleep)
		want(t, "replicas in the end", len(d.Replicas()), 0)
		if _, err := a.Wake(t.Context(), napper, "connection", "test"); err != nil {
			t.Fatal(err)
		}
		want(t, "woken again", last(), model.Awake)
		// The data plane never says that it holds new connections: nothing stops.
		time.Sleep(12 * time.Second)
		want(t, "dozing without an answer", last(), model.Asleep)
		time.Sleep(dozeTime + time.Millisecond)
		want(t, "given up", last(), model.Awake)
	})
}

// Row W01: an old state that is applied late, after which one comes in which the
// service is awake, is no proof that connections are held.
func TestW01LateState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		a, last := napping(t, d, "")
		for range 2 {
			if _, err := a.Wake(t.Context(), napper, "connection", "test"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(13 * time.Second)
			want(t, "dozing", last(), model.Asleep)
		}
		applied(a, 1)
		time.Sleep(2 * settleTime)
		want(t, "after the state of the first time", len(d.Replicas()), 1)
		applied(a, 2)
		time.Sleep(2 * settleTime)
		want(t, "after that of the second", len(d.Replicas()), 0)
	})
}

// Rows W06 and A30: the next agent knows who slept and who was stopped; a file
// that is broken is put aside.
func TestW06Keepsake(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sleep.json")
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		a, last := napping(t, d, file)
		if _, err := a.Wake(t.Context(), napper, "connection", "test"); err != nil {
			t.Fatal(err)
		}
		want(t, "awake", last(), model.Awake)
	})
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		d.replicas = []Replica{replica("a.1", Ready, "10.0.0.1")} // outlived the agent
		a, last := napping(t, d, file)
		want(t, "still awake", last(), model.Awake)
		want(t, "starts", len(d.scaled), 0)
		if err := a.Stop(t.Context(), napper); err != nil {
			t.Fatal(err)
		}
		want(t, "stopped", last(), model.NeverSleeps)
	})
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		a, last := napping(t, d, file)
		want(t, "still stopped", last(), model.NeverSleeps)
		if _, err := a.Wake(t.Context(), napper, "connection", "test"); !errors.Is(err, ErrStopped) {
			t.Errorf("wake: %v", err)
		}
		if err := a.Start(t.Context(), napper); err != nil {
			t.Fatal(err)
		}
		want(t, "started", last(), model.Asleep)
	})
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		_, last := napping(t, &dozer{fake: newFake("process")}, file)
		want(t, "after a broken file", last(), model.Asleep)
	})
	if _, err := os.Stat(file + ".invalid"); err != nil {
		t.Error(err)
	}
}

// reluctant is a Runner that stops replicas in its own time, and may take long to
// hear of more.
type reluctant struct {
	*dozer
	hear chan struct{} // nil: it hears at once
}

func (r *reluctant) Scale(_ model.ServiceName, n int, _ bool) bool {
	r.mu.Lock()
	hear := r.hear
	r.mu.Unlock()
	if n > 0 && hear != nil {
		<-hear
	}
	return true
}

// Row W01: who comes as a replica is about to be stopped does not get that one.
func TestW01NotTheLastOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &reluctant{dozer: &dozer{fake: newFake("process")}}
		a, last := nappingWith(t, r, r.fake, "")
		go r.set(replica("a.1", Ready, "10.0.0.1"))
		if _, err := a.Wake(t.Context(), napper, "connection", "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(13 * time.Second)
		asleepNow(a)
		time.Sleep(settleTime + time.Millisecond)
		want(t, "stage", a.Naps()[napper].Stage, "asleep")
		r.mu.Lock()
		r.hear = make(chan struct{})
		r.mu.Unlock()
		got := make(chan string, 1)
		go func() {
			ready, err := a.Wake(t.Context(), napper, "connection", "test")
			got <- fmt.Sprint(err, ready)
		}()
		last()
		r.set(replica("a.1", Ready, "10.0.0.1")) // still: the Runner has not stopped it yet
		last()
		if len(got) != 0 {
			t.Fatalf("woken by a replica that was told to stop: %s", <-got)
		}
		r.set(replica("a.1", Stopping, "10.0.0.1"))
		close(r.hear)
		last()
		if len(got) != 0 {
			t.Fatalf("woken by a replica that stops: %s", <-got)
		}
		r.set(replica("a.1", Stopping, "10.0.0.1"), replica("a.2", Ready, "10.0.0.2"))
		if s := <-got; !strings.Contains(s, "10.0.0.2") || strings.Contains(s, "10.0.0.1 ") {
			t.Errorf("woken by %s", s)
		}
	})
}
