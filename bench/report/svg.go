// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"html"
	"strings"
)

// Plot is a chart of horizontal bars in panels, one bar for every subject in
// each; a line marks 1.
type Plot struct {
	Title    string
	Notes    []string
	Subjects []string
	Panels   []Panel
}

// Panel is one group of bars.
type Panel struct {
	Title  string
	Values []float64 // by subject; 0: none
	Labels []string  // what is written at the bars' ends
}

const (
	plotColumns = 2
	plotWidth   = 520 // of a panel
	plotLabel   = 205 // of which for the subjects' names
	plotValue   = 130 // and for the figures behind the bars
	plotBar     = 18
	plotHead    = 84
)

// palette has a colour for every subject: dark enough to read on white.
var palette = []string{"#6b7280", "#0f766e", "#14b8a6", "#b45309", "#f59e0b", "#9f1239", "#fb7185", "#1d4ed8", "#7c3aed", "#374151"}

// SVG draws the plot.
func (p Plot) SVG() string {
	height := 40 + plotBar*len(p.Subjects) // of a panel
	rows := (len(p.Panels) + plotColumns - 1) / plotColumns
	width, total := plotColumns*plotWidth+20, plotHead+rows*(height+16)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, total, width, total)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, total)
	fmt.Fprintf(&b, `<text x="20" y="26" font-size="17" font-weight="bold">%s</text>`+"\n", html.EscapeString(p.Title))
	for i, note := range p.Notes {
		fmt.Fprintf(&b, `<text x="20" y="%d" fill="#555">%s</text>`+"\n", 46+16*i, html.EscapeString(note))
	}
	for i, panel := range p.Panels {
		fmt.Fprintf(&b, `<g transform="translate(%d %d)">`+"\n", 20+i%plotColumns*plotWidth, plotHead+i/plotColumns*(height+16))
		p.draw(&b, panel, height)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p Plot) draw(b *strings.Builder, panel Panel, height int) {
	most := 1.0
	for _, v := range panel.Values {
		most = max(most, v)
	}
	scale := float64(plotWidth-plotLabel-plotValue) / most
	fmt.Fprintf(b, `<text x="0" y="16" font-weight="bold">%s</text>`+"\n", html.EscapeString(panel.Title))
	one := plotLabel + scale
	fmt.Fprintf(b, `<line x1="%.1f" y1="22" x2="%.1f" y2="%d" stroke="#111" stroke-dasharray="3 3"/>`+"\n", one, one, height-10)
	for i, name := range p.Subjects {
		y := 26 + i*plotBar
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, plotLabel-8, y+13, html.EscapeString(name))
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`,
			plotLabel, y+2, panel.Values[i]*scale, plotBar-4, palette[i%len(palette)])
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="#333" stroke="#fff" stroke-width="3" paint-order="stroke">%s</text>`+"\n",
			plotLabel+panel.Values[i]*scale+5, y+13, html.EscapeString(panel.Labels[i]))
	}
}
