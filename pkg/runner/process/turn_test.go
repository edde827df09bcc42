// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/turns"
)

// Row W02: a replica starts when another one that starts is done with it, or is
// not to run any more.
func TestW02StartsInTurn(t *testing.T) {
	cfg := testConfig(t.TempDir())
	begun := time.Now()
	cfg.Now = func() time.Time { return begun } // what starts keeps its turn
	b := start(t, cfg)
	b.turns = turns.New(1)
	first, second := shell("sleep 1000"), echoSpec(8090, ":8090")
	first.Service = model.ServiceName{Project: "shop", User: "first"}
	b.apply(first)
	b.one("process", func(rep activator.Replica) bool { return rep.PID != 0 })
	b.apply(first, second)
	is := func(ok func(activator.Replica) bool) func([]activator.Replica) bool {
		return func(all []activator.Replica) bool {
			return slices.ContainsFunc(all, func(rep activator.Replica) bool { return rep.Service == shop && ok(rep) })
		}
	}
	b.await("replica that waits for its turn", is(func(rep activator.Replica) bool {
		return rep.Queued && rep.PID == 0 && rep.Phase == activator.Starting
	}))
	b.apply(second)
	b.await("start after it", is(func(rep activator.Replica) bool { return isReady(rep) && !rep.Queued }))
	first.Replicas = 2 // the turn of the one that is ready is free again
	b.apply(first, second)
	b.await("another start", func(all []activator.Replica) bool {
		return slices.ContainsFunc(all, func(rep activator.Replica) bool { return rep.Service == first.Service && rep.PID != 0 })
	})
}

// A start keeps its turn while it has the processor, or waits for it, half of the
// time, and no longer than crowdMost; nobody asks while nobody wants to start.
func TestW02StartsGiveWay(t *testing.T) {
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		ran, waited time.Duration // of every 100 ms
		wanted      bool
		want        time.Duration
	}{
		"runs":                  {70 * ms, 0, true, crowdMost},
		"waits":                 {10 * ms, 60 * ms, true, crowdMost},
		"sleeps":                {10 * ms, 20 * ms, true, crowdLook},
		"nobody wants to start": {0, 0, false, crowdMost},
	} {
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			r := &Runner{cfg: Config{Now: time.Now}, turns: turns.New(1)}
			ctx, cancel := context.WithCancel(t.Context())
			hold := func() { _, _ = r.turns.Take(ctx, nil, shop, func() {}) }
			hold()
			if tc.wanted {
				go hold()
				synctest.Wait()
			}
			begun := time.Now()
			r.cfg.Now = func() time.Time { // and the kernel's count at that time
				now := time.Now()
				ran, waited := now.Sub(begun)*tc.ran/(100*ms), now.Sub(begun)*tc.waited/(100*ms)
				for file, text := range map[string]string{
					"cpu.stat":     fmt.Sprintf("usage_usec %d\nuser_usec 7\n", ran.Microseconds()),
					"cpu.pressure": fmt.Sprintf("some avg10=1.00 avg60=0.00 avg300=0.00 total=%d\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n", waited.Microseconds()),
				} {
					if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
						t.Error(err)
					}
				}
				return now
			}
			r.crowd(ctx, dir)
			if took := time.Since(begun); took != tc.want {
				t.Errorf("%s: it keeps its turn for %s, want %s", name, took, tc.want)
			}
			cancel()
		})
	}
}
