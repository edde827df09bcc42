// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/fairlead-lb/fairlead/bench/space"
)

// bench is one run and its figures so far.
type bench struct {
	cfg      config
	bin      string
	w        io.Writer
	client   *space.Space
	nodes    int
	subjects []*subject
	stills   *stills
	rows     []report.Row
}

func (b *bench) run() error {
	var err error
	if b.client, err = space.New("client"); err != nil {
		return err
	}
	if b.stills, err = watchStills(); err != nil {
		return err
	}
	for _, s := range subjects() {
		if b.cfg.only != "" && !slices.Contains(strings.Split(b.cfg.only, ","), s.name) {
			continue
		}
		if s.node, err = b.join(); err != nil {
			return err
		}
		if err := s.setUp(b, s); err != nil {
			return fmt.Errorf("set up %s: %w", s.title, err)
		}
		b.subjects = append(b.subjects, s)
	}
	for round := range b.cfg.rounds {
		fmt.Printf("\rround %d of %d", round+1, b.cfg.rounds)
		for i := range b.subjects {
			s := b.subjects[(i+round)%len(b.subjects)]
			if err := s.wake(b.client); err != nil {
				fmt.Println()
				return fmt.Errorf("%s, round %d: %w\n%s", s.title, round, err, s.node.Said())
			}
		}
	}
	fmt.Println()
	b.wakes()
	if b.cfg.sleepers == 0 {
		return nil
	}
	return b.many()
}

func (b *bench) join() (*node, error) {
	b.nodes++
	return join(b.client, b.nodes)
}

// wake measures one wake.
func (s *subject) wake(from *space.Space) error {
	t, err := visit(from, s.to())
	if err != nil {
		return err
	}
	s.turn++
	if t.began < t.connected {
		s.awake++
	} else {
		s.samples = append(s.samples, t)
	}
	if s.after != nil {
		// The activator takes a moment to end its program.
		defer time.Sleep(5 * time.Millisecond)
		return s.after()
	}
	return nil
}

// part is a stretch of a wake.
type part struct {
	title string
	short string
	take  func(told) int64
	aims  string
}

// undisturbed are the wakes during which, from listen() on, no CPU stood still.
func (b *bench) undisturbed(s *subject) []told {
	var all []told
	for _, t := range s.samples {
		if b.stills.within(t.listened, t.answered) == 0 {
			all = append(all, t)
		}
	}
	return all
}

var parts = []part{
	{"connect to the program's start", "start", func(t told) int64 { return t.began - t.connected }, ""},
	{"the program's start to listen()", "its own", func(t told) int64 { return t.listened - t.began }, ""},
	{"listen() to the first byte forwarded", "forwarded", func(t told) int64 { return t.forwarded - t.listened }, "aim p50 1 ms, p99 10 ms; row W08 p50 2 ms"},
	{"listen() to the client's first byte", "answered", func(t told) int64 { return t.answered - t.listened }, ""},
	{"connect to the client's first byte, less the program's own time", "added", func(t told) int64 {
		return t.answered - t.connected - (t.listened - t.began)
	}, ""},
}

// percentile of a part of wakes, in milliseconds.
func percentile(wakes []told, p part, hundredths int) float64 {
	var ns []int64
	for _, t := range wakes {
		ns = append(ns, p.take(t))
	}
	if len(ns) == 0 {
		return 0
	}
	slices.Sort(ns)
	return float64(ns[min(len(ns)-1, len(ns)*hundredths/100)]) / 1e6
}

// wakes prints and keeps the figures of the wakes.
func (b *bench) wakes() {
	all := func(s *subject) []told { return s.samples }
	for _, at := range []int{10, 50, 99} {
		b.table(at, "", all)
	}
	b.table(99, ", while no CPU stood still", b.undisturbed)
}

// table prints and keeps a percentile of some of each subject's wakes.
func (b *bench) table(at int, which string, some func(*subject) []told) {
	t := &report.Table{Title: fmt.Sprintf("One wake, ms, p%d%s", at, which), Head: []string{""}}
	var base []told
	for _, s := range b.subjects {
		if s.title == pollTitle {
			base = some(s)
		}
	}
	for _, p := range parts {
		t.Head = append(t.Head, p.short)
	}
	for _, s := range b.subjects {
		wakes := some(s)
		cells := []string{s.title}
		for _, p := range parts {
			v := percentile(wakes, p, at)
			cells = append(cells, fmt.Sprintf("%.2f", v))
			r := report.Row{Case: fmt.Sprintf("%s, p%d%s", p.title, at, which), Subject: s.title, Value: v, Unit: "ms", Rounds: len(wakes)}
			if by := percentile(base, p, at); by > 0 {
				r.Baseline, r.Ratio = pollTitle, report.Ratio(v, by)
			}
			b.rows = append(b.rows, r)
		}
		t.Add(cells...)
		if s.awake > 0 {
			t.Notes = append(t.Notes, fmt.Sprintf("%s: %d connections found the program awake and do not count", s.title, s.awake))
		}
		if which != "" {
			t.Notes = append(t.Notes, fmt.Sprintf("%s: %d of %d wakes", s.title, len(wakes), len(s.samples)))
		}
	}
	for _, p := range parts {
		line := p.short + ": " + p.title
		if p.aims != "" {
			line += " (" + p.aims + ")"
		}
		t.Notes = append(t.Notes, line)
	}
	if which != "" {
		n, lost := b.stills.total()
		t.Notes = append(t.Notes, fmt.Sprintf("a CPU stood still %d times by more than %s, %s of %s together; the host says it took %s",
			n, noticed, lost.Round(time.Millisecond), time.Since(b.stills.began).Round(time.Second), stolen()-b.stills.stolen))
	}
	t.Print(b.w)
}
