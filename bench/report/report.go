// SPDX-License-Identifier: Apache-2.0

// Package report is what every benchmark ends with: medians, the rows of
// bench/out/NAME.json, a table for a person, and the machine in words. It
// measures nothing.
package report

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// Row is one figure of a benchmark (shared/CONTRACT.md, "Benchmarks").
type Row struct {
	Case     string  `json:"case"`
	Subject  string  `json:"subject"`
	Value    float64 `json:"value"` // the median of the rounds
	Unit     string  `json:"unit"`
	Baseline string  `json:"baseline"` // the subject that Ratio compares with; empty: none
	Ratio    float64 `json:"ratio"`    // Value / the baseline's
	Rounds   int     `json:"rounds"`
}

// Median is the middle of the values, or the mean of the two in the middle;
// NaN if there is none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	if len(v)%2 == 1 {
		return v[mid]
	}
	return (v[mid-1] + v[mid]) / 2
}

// Ratio is value over baseline, to three decimals; 0 without a baseline.
func Ratio(value, baseline float64) float64 {
	if baseline == 0 || math.IsNaN(baseline) || math.IsNaN(value) {
		return 0
	}
	return round(value/baseline, 3)
}

func round(v float64, decimals int) float64 {
	p := math.Pow10(decimals)
	return math.Round(v*p) / p
}

// Write writes the rows to a file as JSON, one row a line; its directory is
// made if it is missing. Values that are no number are left out.
func Write(path string, rows []Row) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	out := []byte("[")
	for _, r := range rows {
		if math.IsNaN(r.Value) {
			continue
		}
		r.Value = round(r.Value, 3)
		line, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("write results: %w", err)
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(out, "\n  "...), line...)
	}
	if err := os.WriteFile(path, append(out, "\n]\n"...), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}
