// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestReplicaMoves: routes, interfaces and MAC addresses of replicas change
// without a change of the config, and are followed.
func TestReplicaMoves(t *testing.T) {
	lab.Some(t, []string{"tcx", "clsact", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		r := l.Replicas[0]
		a := l.Start(t, lab.Config{Services: []lab.Service{stream(l, 13, r)}})
		reaches(t, l, vip(lab.V4, 13, 70), r.Name)
		t.Run("new interface", func(t *testing.T) {
			l.Rewire(t, r)
			comesBack(t, l, a, r)
		})
		t.Run("new MAC", func(t *testing.T) {
			r.NS.Run(t, "ip", "link", "set", "eth0", "address", "02:00:5e:00:53:01")
			// The kernel hears of it with the replica's next packet, as of any
			// host that took over an address.
			for _, gateway := range []string{"10.1.1.1", "fd00:1:1::1"} {
				r.NS.Run(t, "ping", "-c", "1", "-W", "2", gateway)
			}
			comesBack(t, l, a, r)
		})
	})
}

// comesBack waits until new connections reach the replica in both families.
func comesBack(t *testing.T, l *lab.Lab, a *lab.Agent, r *lab.Replica) {
	t.Helper()
	begun := time.Now()
	for _, f := range lab.Families {
		lab.Poll(t, 10*time.Second, func() error {
			c, err := l.Client.Dial("tcp", netip.AddrPort{}, vip(f, 13, 70), 300*time.Millisecond)
			if err != nil {
				return err
			}
			return c.Close()
		}, a.Log)
	}
	t.Logf("back after %v", time.Since(begun).Round(10*time.Millisecond))
}

// TestA05RemovedWhileNoAgentRan: the config changes between two agents. The
// new one drains what it adopts: connections to the replica that is gone from
// the file live for the drain time.
func TestA05RemovedWhileNoAgentRan(t *testing.T) {
	lab.Some(t, []string{"clsact", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		svc := stream(l, 13)
		svc.Drain = 5 * time.Second
		a := l.Start(t, lab.Config{Services: []lab.Service{svc}})
		conns := open(t, l, 30, vip(lab.V4, 13, 70), vip(lab.V6, 13, 70))
		a.Kill(t)
		svc.Backends = lab.Backends(l.Replicas[0], l.Replicas[1])
		a.Write(t, lab.Config{Services: []lab.Service{svc}})
		begun := time.Now()
		a.Run(t)
		a.WaitReady(t, 0)
		reaches(t, l, vip(lab.V4, 13, 70), "replica-1", "replica-2")
		if broken := pingAll(conns, 2*time.Second); len(broken) > 0 && time.Since(begun) < svc.Drain {
			t.Errorf("%d of %d connections broke, the first: %v", len(broken), len(conns), broken[0])
		}
	})
}

// TestDrainCommandKeepsConnections: `fairlead drain` takes no connection away.
func TestDrainCommandKeepsConnections(t *testing.T) {
	lab.Some(t, []string{"tcx", "xdp-generic"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Start(t, lab.Config{Services: []lab.Service{stream(l, 13)}})
		conns := open(t, l, 30, vip(lab.V4, 13, 70), vip(lab.V6, 13, 70))
		a.CLI(t, "drain", "10.1.3.2")
		reaches(t, l, vip(lab.V4, 13, 70), "replica-1", "replica-2")
		reaches(t, l, vip(lab.V6, 13, 70), "replica-1", "replica-2")
		if broken := pingAll(conns, 2*time.Second); len(broken) > 0 {
			t.Errorf("%d of %d connections broke, the first: %v", len(broken), len(conns), broken[0])
		}
		if _, err := a.TryCLI("drain", "10.9.9.9"); err == nil {
			t.Error("an address that no service has can be drained")
		}
	})
}

// TestWorkloadsOutliveTheAgent: kill -9, and the next agent has the same
// processes.
func TestWorkloadsOutliveTheAgent(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		web := service(l, 30, "shop/web", "90", "8090", "tcp")
		web.Workload = workload("--http", ":8090")
		a := l.Start(t, lab.Config{Services: []lab.Service{web}})
		before := pids(waitReplicas(t, a, "shop/web", 2))
		a.Kill(t)
		echoSpread(t, l.Client, vip(lab.V4, 30, 90))
		a.Run(t)
		a.WaitReady(t, 0)
		if after := pids(waitReplicas(t, a, "shop/web", 2)); !maps.Equal(before, after) {
			t.Errorf("replicas %v became %v", before, after)
		}
		echoSpread(t, l.Client, vip(lab.V6, 30, 90))
		a.Stop(t)
		// The cgroup is empty a moment before its last process is a zombie.
		lab.Poll(t, 2*time.Second, func() error {
			for _, pid := range slices.Collect(maps.Values(before)) {
				if lab.Alive(pid) {
					return fmt.Errorf("replica with pid %d runs on after SIGTERM", pid)
				}
			}
			return nil
		})
	})
}

func pids(replicas []lab.WorkloadView) map[string]int {
	m := map[string]int{}
	for _, r := range replicas {
		m[r.ID] = r.PID
	}
	return m
}
