// SPDX-License-Identifier: Apache-2.0

package file

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Error is one fault of a config file.
type Error struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // from 1
	Col     int    `json:"col"`  // from 1, in characters
	Field   string `json:"field"`
	Problem string `json:"problem"`
}

// Error is "FILE:LINE:COL: field: problem". A fault of the file as a whole
// has no field.
func (e Error) Error() string {
	at := fmt.Sprintf("%s:%d:%d: ", e.File, e.Line, e.Col)
	if e.Field == "" {
		return at + e.Problem
	}
	return at + e.Field + ": " + e.Problem
}

// Errors is every fault of a config file, sorted by position.
type Errors []Error

// Error is one line per fault.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

func (es Errors) sort() {
	slices.SortStableFunc(es, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.Field, b.Field))
	})
}

// position is a place in the file, both counted from 1.
type position struct{ line, col int }

// place is what an error is about: a position and the path of the field.
type place struct {
	position
	path string
}

// child is the place of a key below p, at p's own position until a node gives
// a better one.
func (p place) child(name string) place {
	if len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		name = quote(name)
	}
	if p.path != "" {
		name = p.path + "." + name
	}
	return place{p.position, name}
}

func (p place) index(i int) place {
	return place{p.position, fmt.Sprintf("%s[%d]", p.path, i)}
}

// quote shows a value of the file in a message, without letting a long one
// fill the screen.
func quote(s string) string {
	const most = 80
	for i := range s {
		if i >= most {
			return fmt.Sprintf("%q…", s[:i])
		}
	}
	return fmt.Sprintf("%q", s)
}
