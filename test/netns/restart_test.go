// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestA05RestartLoop: agents that are killed or stopped and started again under
// load, also with another set of replicas in between: no established
// connection breaks and new ones are balanced all the time. The recorded long
// run has FAIRLEAD_TEST_RESTARTS=100.
func TestA05RestartLoop(t *testing.T) {
	rounds := 6
	if n, err := strconv.Atoi(os.Getenv("FAIRLEAD_TEST_RESTARTS")); err == nil {
		rounds = n
	}
	lab.Some(t, []string{"tcx", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		svc := stream(l, 13)
		svc.Drain = 10 * time.Minute
		config := lab.Config{Services: []lab.Service{svc}}
		a := l.Start(t, config)
		remotes := []netip.AddrPort{vip(lab.V4, 13, 70), vip(lab.V6, 13, 70)}
		load := l.Client.NewLoad(t, 200, 50*time.Millisecond, remotes...)
		for round := range rounds {
			if round%2 == 0 {
				a.Kill(t)
			} else {
				a.Stop(t)
			}
			gone := l.Replicas[round%len(l.Replicas)]
			var stay []*lab.Replica
			for _, r := range l.Replicas {
				if r != gone {
					stay = append(stay, r)
				}
			}
			config.Services[0].Backends = lab.Backends(stay...)
			a.Write(t, config)
			for _, remote := range remotes {
				if got, err := l.Client.Spread(remote, 50); err != nil {
					t.Fatalf("round %d, no agent runs, new connections to %v: %v, before that %v", round, remote, err, got)
				}
			}
			a.Run(t)
			a.WaitReady(t, 0)
			load.Round(t)
			for _, remote := range remotes {
				got, err := l.Client.Spread(remote, 50)
				if err != nil {
					t.Fatalf("round %d, new connections to %v: %v, before that %v", round, remote, err, got)
				}
				if len(got) != len(stay) {
					t.Errorf("round %d: new connections to %v reached %v, wanted %d replicas", round, remote, got, len(stay))
				}
			}
		}
		if err := load.Stop(); err != nil {
			t.Error(err)
		}
	})
}
