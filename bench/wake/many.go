// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/fairlead-lb/fairlead/bench/space"
)

// crowd is one agent of those that are compared while they do nothing.
type crowd struct {
	title    string
	services func(*node) string
	node     *node
	cpu      time.Duration // in the quiet time
	private  int64         // bytes that its process shares with nobody
	live     int64         // bytes that its garbage collector found in use
}

// many measures what sleeping services cost, and a burst of first connections.
func (b *bench) many() error {
	n := b.cfg.sleepers
	crowds := []*crowd{
		{title: "no service", services: func(*node) string { return "" }},
		{title: fmt.Sprintf("%s with a fixed address", report.Number(n)), services: func(at *node) string { return fixed(at, n) }},
		{title: report.Number(n) + " that sleep", services: func(at *node) string { return sleepers(at, n, "{min: 0, idle: 1h}") }},
	}
	var err error
	for _, c := range crowds {
		if c.node, err = b.join(); err != nil {
			return err
		}
		if err := b.agent(c.node, c.services(c.node)); err != nil {
			return fmt.Errorf("%s: %w", c.title, err)
		}
	}
	fmt.Printf("quiet for %s, and until the garbage collectors have run\n", b.cfg.quiet)
	time.Sleep(5 * time.Second) // what follows a start
	for _, c := range crowds {
		c.cpu = -c.node.CPU()
	}
	time.Sleep(b.cfg.quiet)
	for _, c := range crowds {
		c.cpu += c.node.CPU()
	}
	// Go collects every two minutes at least, and what is freed goes back to
	// the kernel slowly.
	if left := 150*time.Second - b.cfg.quiet; left > 0 {
		time.Sleep(left)
	}
	for _, c := range crowds {
		if err := c.weigh(); err != nil {
			return fmt.Errorf("%s: %w", c.title, err)
		}
	}
	b.costs(crowds)
	return b.burst(crowds[len(crowds)-1].node)
}

// fixed are n services that never sleep.
func fixed(at *node, n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "- {project: bench, user: s%d, run: {containerPort: %d, servicePort: %d}, vip: %s, health: {type: none}, replicas: [100.64.%d.2]}\n",
			i, containerPort, servicePort, at.address(i), at.k)
	}
	return out.String()
}

// weigh notes the memory of the crowd's agent.
func (c *crowd) weigh() error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.node.Procs[0].Process.Pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 1 && (f[0] == "Private_Clean:" || f[0] == "Private_Dirty:") {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			c.private += kib << 10
		}
	}
	out, err := c.node.Output(10*time.Second, "", nil, "curl", "-sf", "http://127.0.0.1:9320/metrics")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(line, "go_memstats_next_gc_bytes "); ok {
			goal, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				return err
			}
			c.live = int64(goal / 2) // GOGC=100: the next collection is at twice what is in use
		}
	}
	return nil
}

func (b *bench) costs(crowds []*crowd) {
	n, none := float64(b.cfg.sleepers), crowds[0]
	t := &report.Table{Title: "Agents that do nothing", Head: []string{"", "CPU, ms per minute", "in use, bytes each", "private, bytes each"}}
	t.Notes = []string{"in use: after a garbage collection; private: of the process, with what Go keeps for later",
		"each: what is more than with no service, by the service; aims: no CPU, 2 048 bytes more than with a fixed address"}
	for _, c := range crowds {
		cpu := float64(c.cpu) / 1e6 * float64(time.Minute) / float64(b.cfg.quiet)
		live, private := float64(c.live-none.live)/n, float64(c.private-none.private)/n
		b.rows = append(b.rows, report.Row{Case: "CPU per minute of an agent that does nothing", Subject: c.title, Value: cpu, Unit: "ms",
			Baseline: none.title, Ratio: report.Ratio(float64(c.cpu), float64(none.cpu)), Rounds: 1})
		cells := []string{c.title, fmt.Sprintf("%.1f", cpu), "–", "–"}
		if c != none {
			cells[2], cells[3] = report.Number(int(live)), report.Number(int(private))
			b.rows = append(b.rows, report.Row{Case: "memory in use per service", Subject: c.title, Value: live, Unit: "bytes", Rounds: 1},
				report.Row{Case: "private memory per service", Subject: c.title, Value: private, Unit: "bytes", Rounds: 1})
		}
		t.Add(cells...)
	}
	t.Print(b.w)
}

// burst connects to different sleepers at once.
func (b *bench) burst(at *node) error {
	n := b.cfg.burst
	took, errs := make([]float64, n), make([]error, n)
	var wg sync.WaitGroup
	begun := time.Now()
	for i := range n {
		wg.Go(func() {
			t, err := visit(b.client, netip.AddrPortFrom(at.address(i), servicePort))
			took[i], errs[i] = float64(t.answered-t.connected)/1e6, err
		})
	}
	wg.Wait()
	all := time.Since(begun)
	missed := 0
	for _, err := range errs {
		if err != nil {
			missed++
			fmt.Fprintln(b.w, "missed:", err)
		}
	}
	slices.Sort(took)
	what := fmt.Sprintf("%s different sleepers woken at once", report.Number(n))
	fmt.Fprintf(b.w, "\n%s: %d missed; the median client waited %.0f ms, all were answered after %.1f s\n", what, missed, took[n/2], all.Seconds())
	b.rows = append(b.rows,
		report.Row{Case: what, Subject: fairleadTitle, Value: float64(missed), Unit: "missed", Rounds: n},
		report.Row{Case: what, Subject: fairleadTitle, Value: took[n/2], Unit: "ms until the answer, median", Rounds: n},
		report.Row{Case: what, Subject: fairleadTitle, Value: all.Seconds() * 1e3, Unit: "ms until the last answer", Rounds: 1})
	if missed > 0 {
		log, _ := os.ReadFile(filepath.Join(space.Dir, at.Name+"-fairlead.log"))
		fmt.Fprintf(os.Stderr, "log of fairlead:\n%s\n", log[max(0, len(log)-4000):])
		return fmt.Errorf("%d of %d sleepers were not woken", missed, n)
	}
	return nil
}
