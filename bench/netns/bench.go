// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/bench/report"
)

// bench is one run and its figures so far.
type bench struct {
	cfg      config
	bin      string
	w        io.Writer
	lab      *lab
	measures []measure
	subjects []*subject
	setUps   []string // how long the large ones took
	placed   []report.Row
}

func (b *bench) run() error {
	if b.cfg.many > maxMany {
		return fmt.Errorf("services: %d, at most %d have addresses here", b.cfg.many, maxMany)
	}
	b.measures = slices.DeleteFunc(slices.Clone(measures), func(m measure) bool { return !listed(b.cfg.measures, m.name) })
	var err error
	if b.lab, err = newLab(); err != nil {
		return err
	}
	for _, s := range subjects(b.cfg.many) {
		if s.title != plainRouting && !listed(b.cfg.only, s.name) {
			continue
		}
		if err := b.setUp(s); err != nil {
			// One peer that cannot be had is no reason to measure nothing.
			fmt.Fprintf(b.w, "left out: %s: %v\n", s.title, err)
			if s.title == plainRouting || strings.HasPrefix(s.name, "fairlead") {
				return fmt.Errorf("set up %s: %w", s.title, err)
			}
		}
	}
	for round := range b.cfg.rounds {
		fmt.Printf("\rround %d of %d", round+1, b.cfg.rounds)
		if err := b.round(round); err != nil {
			fmt.Println()
			return err
		}
	}
	fmt.Println()
	for _, t := range b.tables() {
		t.Print(b.w)
	}
	return b.inPlace()
}

func listed(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}

func (b *bench) setUp(s *subject) error {
	var err error
	if s.node, err = b.lab.join(len(b.subjects) + 1); err != nil {
		return err
	}
	start := time.Now()
	if err := s.setUp(b, s.node); err != nil {
		return err
	}
	if err := s.wait(b.lab); err != nil {
		return err
	}
	if strings.HasSuffix(s.name, "many") {
		b.setUps = append(b.setUps, fmt.Sprintf("%s %.1f s", s.title, time.Since(start).Seconds()))
	}
	s.samples = map[string][]taken{}
	b.subjects = append(b.subjects, s)
	return nil
}

// round measures everything once. Each round begins with another subject, so
// that none always comes after the same one.
func (b *bench) round(n int) error {
	for _, m := range b.measures {
		for i := range b.subjects {
			s := b.subjects[(i+n)%len(b.subjects)]
			if m.udp && s.noUDP {
				continue
			}
			v, err := m.take(b.lab, s, b.cfg.time)
			if err != nil { // once may be this machine's other load
				fmt.Fprintf(b.w, "\nagain: %s, %s: %v\n", m.title, s.title, err)
				v, err = m.take(b.lab, s, b.cfg.time)
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w\n%s%s", m.title, s.title, err, s.node.Said(), b.lab.server.Said())
			}
			s.samples[m.name] = append(s.samples[m.name], v)
		}
	}
	return nil
}

// figure is one of the two of a sample.
type figure func(taken) float64

func rate(t taken) float64 { return t.value }
func cost(t taken) float64 { return t.cpu }

// value is the median of a subject's samples and that of plain routing's.
func (b *bench) value(s *subject, m measure, f figure) (value, plain float64) {
	pick := func(s *subject) float64 {
		var vs []float64
		for _, t := range s.samples[m.name] {
			vs = append(vs, f(t))
		}
		return report.Median(vs)
	}
	return pick(s), pick(b.subjects[0])
}

func (b *bench) rows() []report.Row {
	var rows []report.Row
	for _, m := range b.measures {
		for _, s := range b.subjects {
			v, plain := b.value(s, m, rate)
			row := report.Row{
				Case: m.title, Subject: s.title, Value: v, Unit: m.unit,
				Baseline: plainRouting, Ratio: report.Ratio(v, plain), Rounds: len(s.samples[m.name]),
			}
			rows = append(rows, row)
			v, plain = b.value(s, m, cost)
			row.Value, row.Unit, row.Ratio = v, "µs CPU per "+m.per, report.Ratio(v, plain)
			rows = append(rows, row)
		}
	}
	return append(rows, b.placed...)
}

func (b *bench) tables() []*report.Table {
	rates := b.table("Rates: medians, and × plain routing", rate, func(m measure) string { return m.short + ", " + m.unit })
	costs := b.table("CPU µs of client, server and the node's processes for each operation: medians, and × plain routing",
		cost, func(m measure) string { return m.short + "/" + m.per })
	if len(b.setUps) > 0 {
		rates.Notes = append(rates.Notes, "until the first answer: "+strings.Join(b.setUps, ", "))
	}
	rates.Notes = append(rates.Notes, "connect: a connection for every request; keep-alive: 32 connections; ping-pong: one, less is better; UDP: datagrams that arrive")
	costs.Notes = append(costs.Notes, "less is better; steadier than rates where others use the machine; what the kernel's own threads did is not in it")
	return []*report.Table{rates, costs}
}

func (b *bench) table(title string, f figure, head func(measure) string) *report.Table {
	t := &report.Table{Title: title, Head: []string{""}}
	for _, m := range b.measures {
		t.Head = append(t.Head, head(m), "×")
	}
	for _, s := range b.subjects {
		cells := []string{s.title}
		for _, m := range b.measures {
			v, plain := b.value(s, m, f)
			if len(s.samples[m.name]) == 0 {
				cells = append(cells, "–", "")
				continue
			}
			cells = append(cells, number(v), fmt.Sprintf("%.2f", v/plain))
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}

func number(v float64) string {
	if v >= 1000 {
		return report.Number(int(v))
	}
	return fmt.Sprintf("%.1f", v)
}

// plot draws rates and costs relative to plain routing. What is better when
// less is turned over, so that longer bars are better everywhere.
func (b *bench) plot() report.Plot {
	p := report.Plot{
		Title: "client – node – server, relative to plain routing (dashed: 1)",
		Notes: []string{
			"Left: rates (latency as its inverse); right: operations per CPU time. Longer is better; in brackets the figure itself.",
			report.Machine(),
		},
	}
	for _, s := range b.subjects {
		p.Subjects = append(p.Subjects, s.title)
	}
	for _, m := range b.measures {
		p.Panels = append(p.Panels, b.panel(m, m.title+", "+m.unit, rate, m.less),
			b.panel(m, m.title+": CPU µs per "+m.per, cost, true))
	}
	return p
}

func (b *bench) panel(m measure, title string, f figure, inverse bool) report.Panel {
	panel := report.Panel{Title: title}
	for _, s := range b.subjects {
		v, plain := b.value(s, m, f)
		ratio, label := report.Ratio(v, plain), "–"
		if inverse {
			ratio = report.Ratio(plain, v)
		}
		if len(s.samples[m.name]) > 0 {
			label = fmt.Sprintf("%.2f  (%s)", ratio, number(v))
		}
		panel.Values, panel.Labels = append(panel.Values, ratio), append(panel.Labels, label)
	}
	return panel
}
