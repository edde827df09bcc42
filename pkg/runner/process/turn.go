// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
)

const (
	// startsMost is how many replicas start at once, on a machine of as many
	// processors or fewer.
	startsMost = 4
	// crowdLook is the time between two looks at whether one that starts wants the
	// processor; it does if it has it, or waits for it, half of that time.
	crowdLook = 25 * time.Millisecond
	// crowdMost is how long it may keep others from starting.
	crowdMost = 5 * time.Second
)

// takeTurn waits until the replica may start beside the others that do. An error
// tells that it is not to, or that ctx has ended.
func (r *Runner) takeTurn(ctx context.Context, rep *replica) (release func(), err error) {
	waited := false
	release, err = r.turns.Take(ctx, rep.stop, rep.rec.Service, func() {
		waited = true
		r.update(func() {
			if !stopped(rep) {
				r.enter(rep, activator.Starting, "it waits for its turn: others are starting")
				rep.queued = true
			}
		})
	})
	if waited {
		r.update(func() {
			rep.queued = false
			if !stopped(rep) {
				rep.since, rep.reason = r.cfg.Now(), "being set up"
			}
		})
	}
	return release, err
}

// crowd waits until others may start beside the processes of a cgroup: ctx has
// ended, or they have their start behind them or wait for something other than a
// processor. While nobody wants to start it does not look.
func (r *Runner) crowd(ctx context.Context, cgroup string) {
	end := r.cfg.Now().Add(crowdMost)
	tick := time.NewTicker(crowdLook)
	defer tick.Stop()
	at, before := r.cfg.Now(), wantedCPU(cgroup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := r.cfg.Now()
		if !now.Before(end) {
			return
		}
		if !r.turns.Wanted() {
			at = now // before stays: it makes the next look the stricter one
			continue
		}
		wanted := wantedCPU(cgroup)
		if wanted-before < now.Sub(at)/2 {
			return
		}
		at, before = now, wanted
	}
}

// wantedCPU is how long processes of a cgroup have run, and have waited for a
// processor where the kernel tells (CONFIG_PSI).
func wantedCPU(cgroup string) time.Duration {
	stat, _ := os.ReadFile(filepath.Join(cgroup, "cpu.stat"))
	pressure, _ := os.ReadFile(filepath.Join(cgroup, "cpu.pressure"))
	return time.Duration(number(string(stat), "usage_usec ")+number(string(pressure), "total=")) * time.Microsecond
}

// number is the one after the first occurrence of a name; 0: there is none.
func number(text, name string) int64 {
	_, rest, _ := strings.Cut(text, name)
	digits, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.ParseInt(digits, 10, 64)
	return n
}
