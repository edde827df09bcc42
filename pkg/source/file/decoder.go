// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"

	"github.com/goccy/go-yaml/ast"
)

const (
	maxErrors = 1000
	// maxAliased bounds what is read through aliases, so that a small file of
	// nested aliases cannot become a large config. A node of the file itself is
	// visited up to maxVisits times.
	maxAliased = 100_000
	maxVisits  = 4
	// maxAliasChain bounds aliases of aliases, and maps merged into maps that
	// are merged into others.
	maxAliasChain = 16
)

// decoder carries what decoding one file shares.
type decoder struct {
	file    string
	errs    Errors
	aliases map[*ast.AliasNode]ast.Node
	budget  int // nodes that may still be read
	merges  int // merges in progress, each inside the one before
	stopped bool
	// elsewhere: what is decoded is no file, and has no lines to tell of.
	elsewhere bool
}

// report notes a fault. After maxErrors or a spent budget nothing is noted.
func (d *decoder) report(p place, format string, args ...any) {
	if d.stopped {
		return
	}
	if len(d.errs) >= maxErrors {
		d.stopped = true
		format, args = "more than %d faults; correct those above first", []any{maxErrors}
		p.path = ""
	}
	d.errs = append(d.errs, Error{d.file, max(p.line, 1), max(p.col, 1), p.path, fmt.Sprintf(format, args...)})
}

// resolve follows aliases and anchors to the node that holds the value, and
// counts it. Errors about the value name the place of the alias' target.
func (d *decoder) resolve(v value) (value, bool) {
	if d.stopped {
		return v, false
	}
	d.budget--
	if d.budget < 0 {
		d.report(v.place, "aliases expand to more than about %d values; use fewer", maxAliased)
		d.stopped = true
		return v, false
	}
	for range maxAliasChain {
		switch n := v.node.(type) {
		case *ast.AnchorNode:
			v = at(v.place, n.Value)
		case *ast.AliasNode:
			target, ok := d.aliases[n]
			if !ok {
				d.report(v.place, "alias of the anchor %s, which is not defined before it; define it earlier in the file or write the value out", quote(aliasName(n)))
				return v, false
			}
			v = at(v.place, target)
		case *ast.TagNode:
			d.report(v.place, "tag %s is not understood; remove it", quote(n.GetToken().Value))
			return v, false
		default:
			return v, true
		}
	}
	d.report(v.place, "more than %d aliases lead to each other; write the value out", maxAliasChain)
	return v, false
}

// entry is one pair of a map.
type entry struct {
	name  string
	key   place
	value value
}

// entries lists a map's pairs with merge keys (<<) applied: a key that the map
// itself has wins over a merged one. Duplicates and odd keys are reported and
// left out.
func (d *decoder) entries(v value) ([]entry, bool) {
	ps, ok := pairs(v.node)
	if !ok {
		d.report(v.place, "%s", wantProblem(v.node, "a map"))
		return nil, false
	}
	var out []entry
	var merged []value
	seen := map[string]position{}
	for _, p := range ps {
		key := at(v.place, p.Key)
		if _, merge := p.Key.(*ast.MergeKeyNode); merge {
			merged = append(merged, at(v.child("<<"), p.Value))
			continue
		}
		name, ok := keyName(p.Key)
		if !ok {
			d.report(key.place, "a key must be a plain name, without anchors or parts")
			continue
		}
		key.place = place{key.position, v.child(name).path}
		if first, twice := seen[name]; twice {
			d.report(key.place, "key is given twice, first at %d:%d; keep one", first.line, first.col)
			continue
		}
		seen[name] = key.position
		out = append(out, entry{name, key.place, valueOf(key.place, p.Value)})
	}
	for _, m := range merged {
		for _, e := range d.mergedEntries(v, m, 0) {
			if _, own := seen[e.name]; !own {
				seen[e.name] = e.key.position
				out = append(out, e)
			}
		}
	}
	return out, true
}

// mergedEntries are the pairs that `<<: *alias` or `<<: [*a, *b]` stands for.
func (d *decoder) mergedEntries(into, m value, depth int) []entry {
	m, ok := d.resolve(m)
	if !ok {
		return nil
	}
	if seq, isList := m.node.(*ast.SequenceNode); isList && depth == 0 {
		var out []entry
		for _, n := range seq.Values {
			out = append(out, d.mergedEntries(into, at(m.place, n), 1)...)
		}
		return out
	}
	if _, isMap := pairs(m.node); !isMap {
		d.report(m.place, "%s", wantProblem(m.node, "a map to merge, such as *name"))
		return nil
	}
	if d.merges >= maxAliasChain {
		d.report(m.place, "more than %d merges lead to each other; write the keys out", maxAliasChain)
		return nil
	}
	d.merges++
	es, _ := d.entries(value{place{m.position, into.path}, m.node})
	d.merges--
	d.budget -= len(es)
	return es
}

// valueOf is the value of a pair. An absent one stands at its key.
func valueOf(key place, n ast.Node) value {
	if isNull(n) {
		return value{key, n}
	}
	return at(key, n)
}

func keyName(k ast.MapKeyNode) (string, bool) {
	switch k := k.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return k.GetToken().Value, true
	}
	return "", false
}

func aliasName(n *ast.AliasNode) string {
	if n.Value == nil || n.Value.GetToken() == nil {
		return ""
	}
	return n.Value.GetToken().Value
}
