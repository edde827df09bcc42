// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Table prints rows of cells in aligned columns: the first to the left, the
// others to the right.
type Table struct {
	Title string
	Head  []string
	Rows  [][]string
	Notes []string
}

// Add appends a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Print writes the table.
func (t *Table) Print(w io.Writer) {
	all := append([][]string{t.Head}, t.Rows...)
	var widths []int
	for _, row := range all {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	fmt.Fprintf(w, "\n%s\n", t.Title)
	for n, row := range all {
		fmt.Fprintln(w, line(row, widths))
		if n == 0 {
			fmt.Fprintln(w, "  "+strings.Repeat("─", sum(widths)+2*(len(widths)-1)))
		}
	}
	for _, note := range t.Notes {
		fmt.Fprintf(w, "  %s\n", note)
	}
}

func line(row []string, widths []int) string {
	var b strings.Builder
	for i, cell := range row {
		pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if i == 0 {
			b.WriteString("  " + cell + pad)
			continue
		}
		b.WriteString("  " + pad + cell)
	}
	return strings.TrimRight(b.String(), " ")
}

func sum(ns []int) (total int) {
	for _, n := range ns {
		total += n
	}
	return total
}

// Number is a count with its thousands apart: 524 288.
func Number(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
