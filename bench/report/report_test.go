// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := Median(tt.in); got != tt.want {
			t.Errorf("Median(%v) = %v, want %v", tt.in, got, tt.want)
		}
	}
	if !math.IsNaN(Median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "x.json")
	rows := []Row{
		{Case: "a", Subject: "b", Value: 1.23456, Unit: "ns", Baseline: "c", Ratio: Ratio(1, 3), Rounds: 5},
		{Case: "none", Value: math.NaN()},
	}
	if err := Write(path, rows); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []Row
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := []Row{{Case: "a", Subject: "b", Value: 1.235, Unit: "ns", Baseline: "c", Ratio: 0.333, Rounds: 5}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTable(t *testing.T) {
	tb := Table{Title: "title", Head: []string{"", "µs", "×"}, Notes: []string{"note"}}
	tb.Add("plain", "1.5", "1.00")
	tb.Add("long name", Number(1234567))
	var b strings.Builder
	tb.Print(&b)
	want := "\ntitle\n" +
		"                    µs     ×\n" +
		"  ──────────────────────────\n" +
		"  plain            1.5  1.00\n" +
		"  long name  1 234 567\n" +
		"  note\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestSVGIsXML(t *testing.T) {
	p := Plot{
		Title: "a < b & c", Notes: []string{"one", "two"}, Subjects: []string{"x", "y"},
		Panels: []Panel{
			{Title: "p", Values: []float64{1, 0}, Labels: []string{"1", "–"}},
			{Title: "q", Values: []float64{0.5, 3}, Labels: []string{"<", ">"}},
			{Title: "r", Values: []float64{1, 1}, Labels: []string{"1", "1"}},
		},
	}
	d := xml.NewDecoder(strings.NewReader(p.SVG()))
	bars := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if bars != 1+6 { // the ground and a bar for every subject in every panel
		t.Errorf("%d rectangles, want 7", bars)
	}
}
