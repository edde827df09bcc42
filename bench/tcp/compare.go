// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/bench/report"
)

// Which of two ratios says less for the one that is compared: of rates the
// lower, of times the higher.
func lower(a, b float64) bool  { return a < b }
func higher(a, b float64) bool { return a > b }

// against compares s with the peer that does better against it: the median over
// the rounds of s's figure by the peer's in the same round. A shared machine
// changes its pace from one second to the next, and what was taken in one
// round mostly had the same. who is empty where there is no peer.
func (b *bench) against(s *subject, m measure, f func(taken) float64, worse func(a, b float64) bool) (ratio float64, who string) {
	for _, peer := range b.subjects {
		if peer.own {
			continue
		}
		var by []float64
		for i, t := range peer.samples[m.name] {
			if i < len(s.samples[m.name]) {
				by = append(by, f(s.samples[m.name][i])/f(t))
			}
		}
		if r := report.Median(by); who == "" || worse(r, ratio) {
			ratio, who = r, peer.title
		}
	}
	return report.Ratio(ratio, 1), who
}

// ratio is against as a cell; there may be no peer.
func (b *bench) ratio(s *subject, m measure, f func(taken) float64, worse func(a, b float64) bool) string {
	r, who := b.against(s, m, f, worse)
	if who == "" {
		return "–"
	}
	return fmt.Sprintf("%.2f", r)
}
