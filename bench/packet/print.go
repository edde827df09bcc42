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
		return p.ns(p.find(subjectBareTC, nil))
	}
	return p.ns(p.find(subjectBare, nil))
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
			Case: kase + ", " + p.title, Subject: s.name, Value: p.ns(s), Unit: unitGross,
			Baseline: against, Ratio: report.Ratio(p.ns(s), p.ns(baseline)), Rounds: len(p.pace.undisturbed(s.samples)),
		}
		rows = append(rows, row)
		row.Unit, row.Value, row.Baseline, row.Ratio = unitNet, p.ns(s)-p.base(s), "", 0
		rows = append(rows, row)
	}
	return append(rows, report.Row{
		Case: "no harness, " + p.title, Subject: subjectBare, Value: p.pace.ns(p.plain), Unit: unitGross, Rounds: len(p.pace.undisturbed(p.plain)),
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
		gross, net := fmt.Sprintf("%.1f", p.ns(s)), fmt.Sprintf("%.1f", p.ns(s)-p.base(s))
		if strings.Contains(s.name, "TC") {
			t.Add("· "+s.name, "", "", gross, net)
		} else {
			t.Add("· "+s.name, gross, net)
		}
	}
	t.Notes = append(t.Notes, fmt.Sprintf("bare XDP_TX without the harness: %.1f ns", p.pace.ns(p.plain)))
	if taken, quiet := p.quiet(); quiet < taken {
		t.Notes = append(t.Notes, fmt.Sprintf("%d of %d samples were taken while the machine was slower than its best; where possible they do not count", taken-quiet, taken))
	}
	if p.lost > 0.0005 {
		t.Notes = append(t.Notes, fmt.Sprintf("%.2f %% of the packets found their flow evicted", 100*p.lost))
	}
	return t
}

func (p *phase) line(xdp, tc *subject) []string {
	cells := []string{
		xdp.kase.name,
		fmt.Sprintf("%.1f", p.ns(xdp)), fmt.Sprintf("%.1f", p.ns(xdp)-p.base(xdp)),
		fmt.Sprintf("%.1f", p.ns(tc)), fmt.Sprintf("%.1f", p.ns(tc)-p.base(tc)),
		"", "",
	}
	if lru := p.find(xdp.kase.against, nil); lru != nil && strings.HasPrefix(lru.name, subjectLRU) {
		cells[5] = fmt.Sprintf("%.2f", p.ns(xdp)/p.ns(lru))
	}
	if aim := xdp.kase.aim; aim > 0 {
		mark := "✓"
		if p.ns(xdp) > aim {
			mark = "✗"
		}
		cells[6] = fmt.Sprintf("≤ %.0f %s", aim, mark)
	}
	return cells
}

// quiet counts the phase's samples, and those at about the machine's best pace.
func (p *phase) quiet() (taken, quiet int) {
	for _, s := range p.subjects {
		taken += len(s.samples)
		quiet += p.pace.quiet(s.samples)
	}
	return taken, quiet
}
