// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestA04SpreadFollowsWeights: within 10 % of the weights over 10 000
// connections.
func TestA04SpreadFollowsWeights(t *testing.T) {
	const connections = 10_000
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		svc := stream(l, 13)
		whole := 0
		for i := range svc.Backends {
			svc.Backends[i].Weight = i + 1
			whole += i + 1
		}
		l.Start(t, lab.Config{Services: []lab.Service{svc}})
		families(t, func(t *testing.T, f lab.Family) {
			got, err := l.Client.Spread(vip(f, 13, 70), connections)
			must(t, err)
			for i, r := range l.Replicas {
				want := float64(connections) * float64(i+1) / float64(whole)
				if off := math.Abs(float64(got[r.Name])-want) / want; off > 0.10 {
					t.Errorf("%s got %d connections, %.1f %% off its weight's share %.0f; all: %v", r.Name, got[r.Name], 100*off, want, got)
				}
			}
		})
	})
}

// TestL10BackupOnlyWithoutPrimary: a backup is used only when no primary is
// left, here because they are drained by the operator.
func TestL10BackupOnlyWithoutPrimary(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		svc := stream(l, 13)
		svc.Backends[2].Backup = true
		a := l.Start(t, lab.Config{Services: []lab.Service{svc}})
		steps := []struct {
			drain []string
			want  []string
		}{
			{nil, []string{"replica-1", "replica-2"}},
			{[]string{"10.1.1.2"}, []string{"replica-2"}},
			{[]string{"10.1.2.2"}, []string{"replica-3"}},
			{[]string{"10.1.2.2", "--undo"}, []string{"replica-2"}},
			{[]string{"10.1.1.2", "--undo"}, []string{"replica-1", "replica-2"}},
		}
		for _, step := range steps {
			if step.drain != nil {
				a.CLI(t, "drain", step.drain...)
			}
			for _, f := range lab.Families {
				reaches(t, l, vip(f, 13, 70), step.want...)
			}
		}
	})
}

// reaches waits until new connections reach exactly these replicas.
func reaches(t *testing.T, l *lab.Lab, remote netip.AddrPort, want ...string) {
	t.Helper()
	lab.Poll(t, 5*time.Second, func() error {
		got, err := l.Client.Spread(remote, 30)
		must(t, err)
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
			return fmt.Errorf("%v reaches %v, wanted %v", remote, got, want)
		}
		return nil
	})
}

// TestSharedBackends: replicas behind two virtual IPs, asked from one client
// port at the same time. The replica sees one address and port for both, so
// the replies must be told apart.
func TestSharedBackends(t *testing.T) {
	lab.Beside(t, append(wires, "xdp-generic"), func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		two := stream(l, 14)
		l.Balance(t, lab.Config{Services: []lab.Service{
			stream(l, 13), two, stream(l, 15, l.Replicas[0]), stream(l, 16, l.Replicas[0]),
		}})
		families(t, func(t *testing.T, f lab.Family) {
			t.Run("three replicas", func(t *testing.T) {
				twice(t, l, f, 40, 20000, vip(f, 13, 70), vip(f, 14, 70))
			})
			t.Run("one replica", func(t *testing.T) {
				twice(t, l, f, 40, 21000, vip(f, 15, 70), vip(f, 16, 70))
			})
		})
	})
}

// twice opens two connections from each of the client's ports and uses both.
func twice(t *testing.T, l *lab.Lab, f lab.Family, count, firstPort int, one, two netip.AddrPort) {
	t.Helper()
	for i := range count {
		local := netip.AddrPortFrom(lab.ClientAddr(f), uint16(firstPort+i))
		first, err := l.Client.Open(local, one)
		if err != nil {
			t.Fatalf("from %v to %v: %v", local, one, err)
		}
		defer first.Close()
		second, err := l.Client.Open(local, two)
		if err != nil {
			t.Fatalf("from %v to %v, beside a connection to %v: %v", local, two, one, err)
		}
		defer second.Close()
		for k := range 3 {
			for name, c := range map[string]*lab.Conn{"first": first, "second": second} {
				if err := c.Ping(fmt.Sprintf("%s %d", name, k), 2*time.Second); err != nil {
					t.Fatalf("%s connection from %v (%s): %v", name, local, c.Replica, err)
				}
			}
		}
	}
}

// TestHairpin: a replica is a client of its own service, and reaches every
// replica, itself too.
func TestHairpin(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		l.Start(t, lab.Config{Services: []lab.Service{stream(l, 13), stream(l, 15, l.Replicas[0])}})
		families(t, func(t *testing.T, f lab.Family) {
			for _, r := range l.Replicas {
				got, err := r.NS.Spread(vip(f, 13, 70), 60)
				if err != nil {
					t.Errorf("%s to its own service: %v; before that: %v", r.Name, err, got)
				} else if len(got) != len(l.Replicas) {
					t.Errorf("%s reaches %v of its own service, wanted all", r.Name, got)
				}
			}
			c, err := l.Replicas[0].NS.Open(netip.AddrPort{}, vip(f, 15, 70))
			if err != nil {
				t.Fatalf("the only replica to its own service: %v", err)
			}
			defer c.Close()
			must(t, c.Ping("to myself", 2*time.Second))
		})
	})
}
