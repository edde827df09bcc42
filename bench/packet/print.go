// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/fairlead-lb/fairlead/bench/report"
)

const (
	unitGross = "ns/packet gross"
	unitNet   = "ns/packet net"
)

// base is the bare subject that goes with a program: what the harness costs.
func (p *phase) base(s *subject) float64 {
	if strings.Contains(s.name, "tc") || strings.Contains(s.name, "TC") {
		return p.find(subjectBareTC, nil).ns()
	}
	return p.find(subjectBare, nil).ns()
}

// rows are the phase's figures.
func (p *phase) rows() []report.Row {
	var rows []report.Row
	for _, s := range p.subjects {
		kase, against := s.name, subjectBare
		if s.kase != nil {
			kase, against = s.kase.name, s.kase.against
		}
		baseline := p.find(against, nil)
		if baseline == nil {
			against, baseline = subjectBare, p.find(subjectBare, nil)
		}
		row := report.Row{
			Case: kase + ", " + p.title, Subject: s.name, Value: s.ns(), Unit: unitGross,
			Baseline: against, Ratio: report.Ratio(s.ns(), baseline.ns()), Rounds: len(s.samples),
		}
		rows = append(rows, row)
		row.Unit, row.Value, row.Baseline, row.Ratio = unitNet, s.ns()-p.base(s), "", 0
		rows = append(rows, row)
	}
	return append(rows, report.Row{
		Case: "no harness, " + p.title, Subject: subjectBare, Value: report.Median(p.plain), Unit: unitGross, Rounds: len(p.plain),
	})
}

// table is the phase for a person.
func (p *phase) table() report.Table {
	t := report.Table{
		Title: p.title,
		Head:  []string{"ns per packet", "xdp gross", "xdp net", "tc gross", "tc net", "xdp ÷ LRU", "aim (gross)"},
	}
	for _, s := range p.subjects {
		if s.kase != nil && s.name == subjectXDP {
			t.Rows = append(t.Rows, p.line(s, p.find(subjectTC, s.kase)))
		}
	}
	for _, s := range p.subjects {
		if s.kase != nil {
			continue
		}
		gross, net := fmt.Sprintf("%.1f", s.ns()), fmt.Sprintf("%.1f", s.ns()-p.base(s))
		if strings.Contains(s.name, "TC") {
			t.Add("· "+s.name, "", "", gross, net)
		} else {
			t.Add("· "+s.name, gross, net)
		}
	}
	t.Notes = append(t.Notes, fmt.Sprintf("bare XDP_TX without the harness: %.1f ns", report.Median(p.plain)))
	if p.lost > 0.0005 {
		t.Notes = append(t.Notes, fmt.Sprintf("%.2f %% of the packets found their flow evicted", 100*p.lost))
	}
	return t
}

func (p *phase) line(xdp, tc *subject) []string {
	cells := []string{
		xdp.kase.name,
		fmt.Sprintf("%.1f", xdp.ns()), fmt.Sprintf("%.1f", xdp.ns()-p.base(xdp)),
		fmt.Sprintf("%.1f", tc.ns()), fmt.Sprintf("%.1f", tc.ns()-p.base(tc)),
		"", "",
	}
	if lru := p.find(xdp.kase.against, nil); lru != nil && strings.HasPrefix(lru.name, subjectLRU) {
		cells[5] = fmt.Sprintf("%.2f", xdp.ns()/lru.ns())
	}
	if aim := xdp.kase.aim; aim > 0 {
		mark := "✓"
		if xdp.ns() > aim {
			mark = "✗"
		}
		cells[6] = fmt.Sprintf("≤ %.0f %s", aim, mark)
	}
	return cells
}
