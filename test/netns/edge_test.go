// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestW01TheEdgeOfSleep: connections at random moments around the one at which
// the service falls asleep. None is refused or reset. FAIRLEAD_SLEEP_ROUNDS
// sets how many.
func TestW01TheEdgeOfSleep(t *testing.T) {
	edgeOfSleep(t, func(l *lab.Lab, k int, name string) lab.Service {
		return sleepy(t, l, k, name, "25", 0, "{min: 0, idle: 1s}")
	}, func(l *lab.Lab, f lab.Family, k int) error { return converse(l.Client, vip(f, k, 25)) })
}

// TestW01DatagramsAtTheEdge: the same by UDP. None is lost, though each is sent
// once. One that is held may be overtaken by one that comes as the service is awake.
func TestW01DatagramsAtTheEdge(t *testing.T) {
	edgeOfSleep(t, func(l *lab.Lab, k int, name string) lab.Service {
		return mirrored(t, l, k, name, "53", 0, "{min: 0, idle: 1s}")
	}, func(l *lab.Lab, f lab.Family, k int) error {
		c, err := l.Client.Dial("udp", netip.AddrPort{}, vip(f, k, 53), 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(lab.Patience(30 * time.Second)))
		want := map[string]bool{}
		for _, say := range []string{"one", "two"} {
			want[c.LocalAddr().String()+" "+say] = true
			if _, err := io.WriteString(c, say); err != nil {
				return err
			}
		}
		b := make([]byte, 2048)
		for len(want) > 0 {
			n, err := c.Read(b)
			if err != nil || !want[string(b[:n])] {
				return fmt.Errorf("answer %q, want one of %v: %w", b[:n], want, err)
			}
			delete(want, string(b[:n]))
		}
		return nil
	})
}

// edgeOfSleep has services, whose idle is a second, used at random moments around
// the one at which they fall asleep.
func edgeOfSleep(t *testing.T, sleeps func(l *lab.Lab, k int, name string) lab.Service, use func(l *lab.Lab, f lab.Family, k int) error) {
	rounds := 100
	if n, err := strconv.Atoi(os.Getenv("FAIRLEAD_SLEEP_ROUNDS")); err == nil {
		rounds = n
	}
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		services := max(1, min(40, rounds/10))
		var config lab.Config
		for i := range services {
			config.Services = append(config.Services, sleeps(l, 40+i, fmt.Sprintf("shop/edge%d", i)))
		}
		a := l.Start(t, config)
		var wg sync.WaitGroup
		errs := make([]error, services)
		for i := range services {
			wg.Go(func() {
				for round := range rounds / services {
					// From 100 ms before the service may fall asleep to 1.2 s after, spread evenly.
					time.Sleep(900*time.Millisecond + time.Duration((round*services+i)*7919%1300)*time.Millisecond)
					f := []lab.Family{lab.V4, lab.V6}[round%2]
					if err := use(l, f, 40+i); err != nil {
						errs[i] = fmt.Errorf("service %d, round %d: %w", i, round, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			log, _ := os.ReadFile(a.Path("log"))
			for line := range strings.Lines(string(log)) {
				if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
					t.Log(line)
				}
			}
			t.Error(err)
			t.Log(a.CLI(t, "status"))
			t.Log(shows(l, "what became of the rest"))
		}
		woken := 0
		for i := range services {
			woken += starts(t, a, fmt.Sprintf("shop/edge%d", i))
		}
		t.Logf("%d rounds, %d starts", rounds, woken)
		if woken <= services {
			t.Errorf("nothing fell asleep in %d rounds", rounds)
		}
	})
}
