// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"
	"strings"
)

// Vars are the values a template's placeholders stand for.
type Vars struct {
	Prefix, Project, User, Region, Domain, TCPDomain string
}

// placeholders in the order messages list them.
var placeholders = []struct {
	name string
	of   func(Vars) string
}{
	{"prefix", func(v Vars) string { return v.Prefix }},
	{"project", func(v Vars) string { return v.Project }},
	{"user", func(v Vars) string { return v.User }},
	{"region", func(v Vars) string { return v.Region }},
	{"domain", func(v Vars) string { return v.Domain }},
	{"tcpDomain", func(v Vars) string { return v.TCPDomain }},
}

// Template is a parsed name template such as "{project}.{user}.{domain}".
// The zero value is not usable; make one with ParseTemplate.
type Template struct {
	text  string
	parts []part
}

// part is either literal text or a placeholder's index.
type part struct {
	text        string
	placeholder int // -1: text
}

// ParseTemplate checks a template once, for every name it will make: known
// placeholders, closed braces, and lower-case LDH between them. What only
// shows with the values (lengths) is left to Expand.
func ParseTemplate(s string) (Template, error) {
	t := Template{text: s}
	for rest := s; rest != ""; {
		open := strings.IndexAny(rest, "{}")
		switch {
		case open < 0:
			open = len(rest)
		case rest[open] == '}':
			return Template{}, fmt.Errorf("template %q has a '}' without its '{'", clip(s))
		}
		if open > 0 {
			t.parts = append(t.parts, part{text: rest[:open], placeholder: -1})
			rest = rest[open:]
			continue
		}
		name, after, closed := strings.Cut(rest[1:], "}")
		if !closed {
			return Template{}, fmt.Errorf("template %q has a '{' without its '}'", clip(s))
		}
		i := findPlaceholder(name)
		if i < 0 {
			return Template{}, fmt.Errorf("template %q holds {%s}, which is unknown; want one of %s", clip(s), clip(name), known())
		}
		t.parts = append(t.parts, part{placeholder: i})
		rest = after
	}
	// One-letter values show every fault of the text itself.
	if _, err := t.Expand(Vars{"p", "p", "u", "r", "d", "t"}); err != nil {
		return Template{}, fmt.Errorf("template %q: %w", clip(s), err)
	}
	return t, nil
}

// String is the template as it was written.
func (t Template) String() string { return t.text }

// Expand makes the name of v. It refuses a label over 63 bytes and a name
// over 253 with the length (row A13), and anything that is not lower-case LDH.
func (t Template) Expand(v Vars) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.placeholder < 0 {
			b.WriteString(p.text)
			continue
		}
		b.WriteString(placeholders[p.placeholder].of(v))
	}
	name := b.String()
	if err := CheckName(name); err != nil {
		return "", err
	}
	return name, nil
}

func findPlaceholder(name string) int {
	for i, p := range placeholders {
		if p.name == name {
			return i
		}
	}
	return -1
}

func known() string {
	var all []string
	for _, p := range placeholders {
		all = append(all, "{"+p.name+"}")
	}
	return strings.Join(all, " ")
}
