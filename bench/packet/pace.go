// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"

	"github.com/fairlead-lb/fairlead/bench/harness"
	"github.com/fairlead-lb/fairlead/bench/report"
)

// pace is how fast the machine is: ns for a bare packet, the same work every
// time. CPU time counts nobody else's work, but a core whose sibling is busy,
// or that is throttled, takes twice as much of it.
type pace struct{ best float64 }

const (
	paceRuns = 1 << 15
	// within is how far from the best pace a sample is taken to be undisturbed.
	within = 1.15
)

func (p *pace) now(h *harness.Harness) (float64, error) {
	took, err := h.Plain(h.Peers().BareTC, paceRuns)
	if err != nil {
		return 0, fmt.Errorf("measure the machine's pace: %w", err)
	}
	now := float64(took) / paceRuns
	if p.best == 0 || now < p.best {
		p.best = now
	}
	return now, nil
}

// sample is one measurement and the worse pace before and after it.
type sample struct {
	ns, pace float64
}

// quiet counts the samples taken at about the best pace.
func (p *pace) quiet(samples []sample) (n int) {
	for _, s := range samples {
		if s.pace <= within*p.best {
			n++
		}
	}
	return n
}

// undisturbed are the samples taken at about the best pace, or, where they are
// fewer than a third, the third that was taken at the best there was.
func (p *pace) undisturbed(samples []sample) []float64 {
	s := slices.Clone(samples)
	slices.SortStableFunc(s, func(a, b sample) int {
		switch {
		case a.pace < b.pace:
			return -1
		case a.pace > b.pace:
			return 1
		}
		return 0
	})
	var out []float64
	for _, x := range s[:max(p.quiet(s), (len(s)+2)/3)] {
		out = append(out, x.ns)
	}
	return out
}

// ns is the figure of a subject: the median of its undisturbed samples.
func (p *pace) ns(samples []sample) float64 { return report.Median(p.undisturbed(samples)) }
