// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestA05ReplicasChange: 1 000 connections exchange lines while the config
// file takes replicas away and brings them back. None of them breaks, and new
// ones reach only the replicas there are.
func TestA05ReplicasChange(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		config := func(replicas ...int) lab.Config {
			var rs []*lab.Replica
			for _, k := range replicas {
				rs = append(rs, l.Replicas[k-1])
			}
			svc := stream(l, 13, rs...)
			svc.Drain = 10 * time.Minute
			return lab.Config{Services: []lab.Service{svc}}
		}
		a := l.Start(t, config(1, 2, 3))
		load := l.Client.NewLoad(t, 1000, 200*time.Millisecond, vip(lab.V4, 13, 70), vip(lab.V6, 13, 70))
		for _, replicas := range [][]int{{1, 2}, {1, 2, 3}, {3}, {2, 3}, {1}, {1, 2, 3}} {
			a.Reload(t, config(replicas...))
			var want []string
			for _, k := range replicas {
				want = append(want, l.Replicas[k-1].Name)
			}
			for _, f := range lab.Families {
				reaches(t, l, vip(f, 13, 70), want...)
			}
			load.Round(t) // those of removed replicas, too
		}
		if err := load.Stop(); err != nil {
			t.Error(err)
		}
		t.Logf("%d lines on %d connections over 6 changes", load.Pings(), len(load.Conns))
	})
}

// TestA05DrainEnds: a removed replica keeps its connections for the drain
// time, then their flows are released; the others' go on.
func TestA05DrainEnds(t *testing.T) {
	const drain = 3 * time.Second
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		svc := stream(l, 13)
		svc.Drain = drain
		a := l.Start(t, lab.Config{Services: []lab.Service{svc}})
		conns := open(t, l, 30, vip(lab.V4, 13, 70), vip(lab.V6, 13, 70))
		gone := l.Replicas[2]
		if flows := flowsOf(t, a, gone); flows == 0 {
			t.Fatalf("no flow to %s among 30 connections", gone.Name)
		}
		svc.Backends = lab.Backends(l.Replicas[0], l.Replicas[1])
		removed := time.Now()
		a.Reload(t, lab.Config{Services: []lab.Service{svc}})
		if broken := pingAll(conns, time.Second); len(broken) > 0 && time.Since(removed) < drain {
			t.Errorf("%d of %d connections broke %v after %s was removed, the first: %v",
				len(broken), len(conns), time.Since(removed).Round(time.Millisecond), gone.Name, broken[0])
		}
		lab.Poll(t, drain+15*time.Second, func() error {
			if n := flowsOf(t, a, gone); n > 0 {
				return fmt.Errorf("%d flows to %s, %v after it was removed with drain %v", n, gone.Name, time.Since(removed).Round(time.Millisecond), drain)
			}
			return nil
		})
		if early := time.Since(removed); early < drain {
			t.Errorf("flows were released after %v, wanted the drain time of %v", early, drain)
		}
		for _, c := range conns {
			if c.Replica == gone.Name {
				continue
			}
			if err := c.Ping("after the drain", 2*time.Second); err != nil {
				t.Errorf("connection to %s, which was not removed: %v", c.Replica, err)
			}
		}
	})
}

// pingAll uses all connections at once and returns what went wrong.
func pingAll(conns []*lab.Conn, timeout time.Duration) []error {
	errs := make([]error, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			if err := c.Ping("a line", timeout); err != nil {
				errs[i] = fmt.Errorf("connection to %s: %w", c.Replica, err)
			}
		})
	}
	wg.Wait()
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func flowsOf(t *testing.T, a *lab.Agent, r *lab.Replica) int {
	t.Helper()
	n := 0
	for _, f := range a.Flows(t) {
		if addr := f.Backend.Addr(); addr == r.Addr4 || addr == r.Addr6 {
			n++
		}
	}
	return n
}

// open opens count connections, turn and turn about.
func open(t *testing.T, l *lab.Lab, count int, remotes ...netip.AddrPort) []*lab.Conn {
	t.Helper()
	var conns []*lab.Conn
	for i := range count {
		c, err := l.Client.Open(netip.AddrPort{}, remotes[i%len(remotes)])
		must(t, err)
		t.Cleanup(func() { c.Close() })
		conns = append(conns, c)
	}
	return conns
}

// TestA03InvalidConfigChangesNothing: it is reported with file, line and
// field, counted, and the last good one stays in force.
func TestA03InvalidConfigChangesNothing(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		config := lab.Config{Services: []lab.Service{stream(l, 13)}}
		a := l.Start(t, config)
		before := a.Status(t)
		conns := open(t, l, 10, vip(lab.V4, 13, 70), vip(lab.V6, 13, 70))
		a.WriteText(t, "services:\n- project: shop\n  user: web\n  run: {containerPort: \"80,8080\", servicePort: \"80\"}\n")
		a.Signal(t, syscall.SIGHUP)
		var after lab.Status
		lab.Poll(t, 10*time.Second, func() error {
			if after = a.Status(t); after.Config.Errors == before.Config.Errors {
				return lab.ErrNotYet
			}
			return nil
		}, a.Log)
		if after.Config.Generation != before.Config.Generation {
			t.Errorf("generation %d became %d", before.Config.Generation, after.Config.Generation)
		}
		if want := a.Path("fairlead.yaml") + ":4:"; !strings.Contains(after.Config.Error, want) || !strings.Contains(after.Config.Error, "servicePort") {
			t.Errorf("status says %q, wanted %q and the field", after.Config.Error, want)
		}
		if _, err := a.TryCLI("check", "--config", a.Path("fairlead.yaml")); err == nil {
			t.Error("fairlead check accepts it")
		}
		for _, c := range conns {
			must(t, c.Ping("still here", time.Second))
		}
		reaches(t, l, vip(lab.V4, 13, 70), "replica-1", "replica-2", "replica-3")

		// The file's change alone is enough to mend it: no signal.
		a.Write(t, lab.Config{Services: []lab.Service{stream(l, 13, l.Replicas[0])}})
		a.WaitReady(t, before.Config.Generation)
		if s := a.Status(t); s.Config.Error != "" {
			t.Errorf("after the config was mended status says %q", s.Config.Error)
		}
		reaches(t, l, vip(lab.V4, 13, 70), "replica-1")
	})
}
