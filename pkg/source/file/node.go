// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// value is a node of the tree with the place errors about it name.
type value struct {
	place
	node ast.Node
}

// at is the value at a node below v's path.
func at(p place, n ast.Node) value {
	if pos, ok := nodePosition(n); ok {
		p.position = pos
	}
	return value{place: p, node: n}
}

// nodePosition is where a node begins. The library says the ':' of the first
// pair for a block mapping; people expect its first key.
func nodePosition(n ast.Node) (position, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return nodePosition(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return nodePosition(n.Key)
	case *ast.AnchorNode:
		if pos, ok := nodePosition(n.Value); ok {
			return pos, true
		}
	case nil:
		return position{}, false
	}
	tk := n.GetToken()
	if tk == nil || tk.Position == nil || tk.Position.Line < 1 {
		return position{}, false
	}
	return position{tk.Position.Line, max(tk.Position.Column, 1)}, true
}

// pairs lists the key-value pairs of a mapping node; ok is false for others.
func pairs(n ast.Node) (ps []*ast.MappingValueNode, ok bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// scalar is the text of a scalar as it stands in the file and whether it was
// written as a string. ok is false for null and for anything with parts.
func scalar(n ast.Node) (text string, isString, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true, true
	case *ast.LiteralNode:
		return n.Value.Value, true, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, false, true
	}
	return "", false, false
}

// describe says in words what kind of thing a node is, for "got …".
func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a map"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode, nil:
		return "nothing"
	}
	text, isString, ok := scalar(n)
	switch {
	case !ok:
		return "something else"
	case isString:
		return quote(text)
	}
	return strings.TrimSpace(text)
}

// wantProblem is the message for a node of the wrong kind.
func wantProblem(n ast.Node, want string) string {
	text, isString, _ := scalar(n)
	if isString && want == wantBool && (text == "true" || text == "false") {
		want += " without quotes"
	}
	return fmt.Sprintf("got %s, want %s", describe(n), want)
}

func isNull(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return null || n == nil
}
