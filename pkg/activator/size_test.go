// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// crowd is a dozer that knows how many replicas it shall have.
type crowd struct {
	*dozer
	quick atomic.Int64 // AtMost
	exact atomic.Int64 // calls of Connections
}

func (c *crowd) Connections(name model.ServiceName) (int, error) {
	c.exact.Add(1)
	return c.dozer.Connections(name)
}

func (c *crowd) AtMost(model.ServiceName) (int, error) { return int(c.quick.Load()), nil }

func (c *crowd) wanted() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.scaled) == 0 {
		return c.specs[0].Replicas
	}
	return c.scaled[len(c.scaled)-1]
}

// sized is an Activator of one service with a scale, whose Source runs.
func sized(t *testing.T, c *crowd, scale model.Scale) *Activator {
	t.Helper()
	requests := map[model.ServiceName]int{}
	a := New(Config{Runners: []Runner{c}, InFlight: func() map[model.ServiceName]int { return requests }})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = a.Source().Run(t.Context(), func(source.Part) {})
	}()
	t.Cleanup(func() { <-done })
	close(c.adopt)
	scale.StartTimeout, scale.Queue = time.Minute, 1000
	st := &model.State{Generation: 1, Services: []*model.Service{{
		Name: napper, Ports: []model.Port{{Service: 80, Container: 8080, Protocol: model.TCP}},
		Workload: &model.Workload{Driver: "process", Scale: scale},
	}}}
	synctest.Wait()
	if err := a.Apply(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	return a
}

// Issue 6, item 4: up at once, as far as allowed, and down slowly.
func TestScale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{dozer: &dozer{fake: newFake("process"), start: func(*dozer) {}}}
		c.replicas = []Replica{replica("a.1", Ready, "10.0.0.1")}
		c.quick.Store(1 << 20)
		a := sized(t, c, model.Scale{Min: 1, Max: 5, Target: 10})
		want(t, "at first", c.wanted(), 1)
		for _, s := range []struct {
			open int
			wait time.Duration
			want int
		}{
			{10, 2 * sizeLook, 1},
			{11, 2 * sizeLook, 2},
			{35, 2 * sizeLook, 4},
			{1000, 2 * sizeLook, 5},
			{0, shrinkTime / 2, 5},
			{45, 2 * sizeLook, 5}, // a short pause is none
			{0, shrinkTime + 3*sizeLook, 4},
			{0, shrinkTime + sizeLook, 3},
			{0, 10 * shrinkTime, 1},
		} {
			c.use(s.open)
			time.Sleep(s.wait)
			want(t, "replicas", c.wanted(), s.want)
			if t.Failed() {
				t.Fatalf("with %d connections for %s", s.open, s.wait)
			}
		}
		n := a.Sizes()[napper]
		if n.Want != 1 || n.Min != 1 || n.Max != 5 || n.Target != 10 || n.Cause == "" {
			t.Errorf("told: %+v", n)
		}
		// What is in use by the quick answer at most needs no exact one.
		c.quick.Store(10)
		before := c.exact.Load()
		time.Sleep(time.Minute)
		if n := c.exact.Load(); n != before {
			t.Errorf("%d exact counts", n-before)
		}
	})
}

// A service that may sleep is woken with as many replicas as those need who
// wait for it, and begins with one the next time.
func TestScaleOfSleepers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{dozer: &dozer{fake: newFake("process"), start: func(*dozer) {}}}
		a := sized(t, c, model.Scale{Max: 3, Target: 10, Idle: 10 * time.Second})
		for range 25 {
			go func() { _, _ = a.Wake(t.Context(), napper, "request", "test") }()
		}
		synctest.Wait()
		time.Sleep(time.Millisecond)
		want(t, "woken by 25", c.wanted(), 3)
		c.set(replica("a.1", Ready, "10.0.0.1"), replica("a.2", Ready, "10.0.0.2"), replica("a.3", Ready, "10.0.0.3"))
		synctest.Wait()
		time.Sleep(13 * time.Second)
		asleepNow(a)
		time.Sleep(settleTime + time.Millisecond)
		want(t, "asleep", c.wanted(), 0)
		go func() { _, _ = a.Wake(t.Context(), napper, "request", "test") }()
		synctest.Wait()
		want(t, "woken by one", c.wanted(), 1)
		c.set(replica("a.1", Ready, "10.0.0.1"))
		synctest.Wait()
	})
}

// While the kernel's count of sockets stays what it was with nobody connected
// they are not looked at one by one, but before the service falls asleep.
func TestCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{dozer: &dozer{fake: newFake("process")}}
		c.quick.Store(3)
		a := sized(t, c, model.Scale{Max: 1, Idle: 10 * time.Second})
		if _, err := a.Wake(t.Context(), napper, "request", "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second)
		if n := c.exact.Load(); n == 0 || n > 2 {
			t.Errorf("%d exact counts while nothing changes, want one or two", n)
		}
		c.use(1) // one came as another socket went
		before := c.exact.Load()
		time.Sleep(3 * time.Second)
		want(t, "with a connection that hides", a.Naps()[napper].Stage, "awake")
		if c.exact.Load() == before {
			t.Error("it was not counted before it would fall asleep")
		}
		c.use(0)
		c.quick.Store(4)
		time.Sleep(13 * time.Second)
		want(t, "with nobody", a.Naps()[napper].Stage, "dozing")
		asleepNow(a)
		time.Sleep(settleTime + time.Millisecond)
		want(t, "in the end", a.Naps()[napper].Stage, "asleep")
	})
}

// Replicas that outlived an agent are kept until they are too many for a while.
func TestScaleIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &crowd{dozer: &dozer{fake: newFake("process"), start: func(*dozer) {}}}
		c.quick.Store(1 << 20)
		c.replicas = []Replica{replica("a.1", Ready, "10.0.0.1"), replica("a.2", Ready, "10.0.0.2"), replica("a.3", Ready, "10.0.0.3")}
		sized(t, c, model.Scale{Min: 1, Max: 2, Target: 10})
		want(t, "of three that run two are allowed", c.wanted(), 2)
		time.Sleep(shrinkTime + 3*sizeLook)
		want(t, "one is enough", c.wanted(), 1)
	})
}
