// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/fairlead-lb/fairlead/bench/space"
)

// runs is what the kernel counted of some programs.
type runs struct{ ns, count uint64 }

// inPlace measures fairlead's TC program where it runs, by the kernel's own
// account: with the caches that the rest of the path leaves it. It is done
// after the rounds, because the account costs every program a little.
func (b *bench) inPlace() error {
	t := &report.Table{
		Title: "fairlead's TC program in place, by the kernel's account (which adds some 50 ns to each)",
		Head:  []string{"ns per packet"},
	}
	for _, m := range b.measures {
		t.Head = append(t.Head, m.short)
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("have the kernel time programs: %w", err)
	}
	defer stats.Close()
	for _, s := range b.subjects {
		if !strings.HasPrefix(s.name, "fairlead") {
			continue
		}
		cells := []string{s.title}
		for _, m := range b.measures {
			each, err := b.placedRuns(s, m)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", m.title, s.title, err)
			}
			cells = append(cells, fmt.Sprintf("%.0f", report.Median(each)))
			b.placed = append(b.placed, report.Row{
				Case: m.title, Subject: s.title + ", its TC program", Value: report.Median(each), Unit: "ns per packet, in place", Rounds: len(each),
			})
		}
		t.Rows = append(t.Rows, cells)
	}
	if len(t.Rows) > 0 {
		t.Print(b.w)
	}
	return nil
}

// placedRuns takes a few samples of ns for each run of the node's programs.
func (b *bench) placedRuns(s *subject, m measure) ([]float64, error) {
	var each []float64
	for range min(b.cfg.rounds, 5) {
		before := runsOf(s.node.Space)
		if _, err := m.take(b.lab, s, b.cfg.time); err != nil {
			return nil, err
		}
		after := runsOf(s.node.Space)
		each = append(each, float64(after.ns-before.ns)/float64(max(after.count-before.count, 1)))
	}
	return each, nil
}

// runsOf adds up the TC programs that the namespace's processes hold (fdinfo of
// a program, include/uapi/linux/bpf.h: BPF_PROG_TYPE_SCHED_CLS is 3).
func runsOf(s *space.Space) runs {
	var total runs
	seen := map[uint64]bool{}
	for _, cmd := range s.Procs {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", cmd.Process.Pid))
		for _, file := range files {
			text, _ := os.ReadFile(file)
			f := fields(string(text))
			if f["prog_type"] == 3 && !seen[f["prog_id"]] {
				seen[f["prog_id"]] = true
				total.ns, total.count = total.ns+f["run_time_ns"], total.count+f["run_cnt"]
			}
		}
	}
	return total
}

// fields reads lines of "name: number".
func fields(text string) map[string]uint64 {
	out := map[string]uint64{}
	for l := range strings.Lines(text) {
		key, value, _ := strings.Cut(l, ":")
		var n uint64
		if _, err := fmt.Sscan(value, &n); err == nil {
			out[key] = n
		}
	}
	return out
}
