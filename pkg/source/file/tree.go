// SPDX-License-Identifier: Apache-2.0

package file

import "github.com/goccy/go-yaml/ast"

// walker notes what every alias stands for: the last anchor of that name
// before it that is complete, so that there are no cycles.
type walker struct {
	aliases map[*ast.AliasNode]ast.Node
	anchors map[string]ast.Node
	nodes   int
	deep    position
}

func (w *walker) walk(n ast.Node, depth int) {
	if n == nil || w.deep.line > 0 {
		return
	}
	w.nodes++
	if depth > maxDepth {
		w.deep, _ = nodePosition(n)
		w.deep.line = max(w.deep.line, 1)
		return
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, p := range n.Values {
			w.walk(p.Key, depth)
			w.walk(p.Value, depth+1)
		}
	case *ast.MappingValueNode:
		w.walk(n.Key, depth)
		w.walk(n.Value, depth+1)
	case *ast.SequenceNode:
		for _, item := range n.Values {
			w.walk(item, depth+1)
		}
	case *ast.TagNode:
		w.walk(n.Value, depth+1)
	case *ast.AnchorNode:
		w.walk(n.Value, depth+1)
		if n.Name != nil && n.Name.GetToken() != nil {
			w.anchors[n.Name.GetToken().Value] = n.Value
		}
	case *ast.AliasNode:
		if target, ok := w.anchors[aliasName(n)]; ok {
			w.aliases[n] = target
		}
	}
}
