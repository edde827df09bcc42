// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/source"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSize bounds a config file, in bytes.
const MaxSize = 16 << 20

// maxDepth bounds how deep lists and maps nest. The config itself needs 8.
const maxDepth = 32

// Parse reads a config file. The error is an Errors with every fault found,
// sorted by position; the Part is only to be used without one.
func Parse(filename string, data []byte) (source.Part, error) {
	d := &decoder{file: filename}
	body, ok := d.parse(data)
	if !ok {
		return source.Part{}, d.errs
	}
	c, _ := root().decode(d, value{place{position: position{1, 1}}, body})
	part := c.build(d)
	if len(d.errs) > 0 {
		d.errs.sort()
		return source.Part{}, d.errs
	}
	return part, nil
}

// parse makes the tree of the only document, with its aliases resolved.
func (d *decoder) parse(data []byte) (body ast.Node, ok bool) {
	start := place{position: position{1, 1}}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(data) > MaxSize {
		d.report(start, "the file is %d bytes long, at most %d are read", len(data), MaxSize)
		return nil, false
	}
	if pos, bad := badByte(data); bad {
		d.report(place{position: pos}, "the file holds a byte that is not UTF-8 text; store it as UTF-8")
		return nil, false
	}
	f, err := parseYAML(string(data))
	if err != nil {
		d.syntax(err)
		return nil, false
	}
	body, ok = d.document(f)
	if !ok {
		return nil, false
	}
	w := walker{aliases: map[*ast.AliasNode]ast.Node{}, anchors: map[string]ast.Node{}}
	w.walk(body, 0)
	d.aliases, d.budget = w.aliases, maxVisits*w.nodes+maxAliased
	if w.deep.line > 0 {
		d.report(place{position: w.deep}, "%s", deepError{w.deep})
		return nil, false
	}
	return body, true
}

// deepError is nesting that the parser must not see.
type deepError struct{ at position }

func (deepError) Error() string {
	return fmt.Sprintf("nests deeper than %d levels; the config needs 8", maxDepth)
}

// parseYAML keeps a fault of the library from ending the agent: a config file
// may say anything.
func parseYAML(text string) (f *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, fmt.Errorf("the YAML parser gave up: %v", r)
		}
	}()
	tokens := joinScalars(lexer.Tokenize(text))
	if at, deep := tooDeep(tokens); deep {
		return nil, deepError{at}
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// syntax reports an error of the YAML parser at its own position.
func (d *decoder) syntax(err error) {
	p := place{position: position{1, 1}}
	var deep deepError
	if errors.As(err, &deep) {
		d.report(place{position: deep.at}, "%s", deep)
		return
	}
	message := err.Error()
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		message = syntax.GetMessage()
		if tk := syntax.GetToken(); tk != nil && tk.Position != nil {
			p.position = position{tk.Position.Line, tk.Position.Column}
		}
	}
	if i := strings.IndexByte(message, '\n'); i >= 0 {
		message = message[:i]
	}
	switch {
	case strings.HasPrefix(message, "mapping value is not allowed"):
		message += `; correct the indentation, or quote a value that ends with ":" or holds ": "`
	case strings.HasPrefix(message, "found character '\t'"):
		message = "a tab stands here; indent with spaces"
	}
	d.report(p, "is no YAML: %s", message)
}

// document is the body of the only document; an empty file is an empty map.
func (d *decoder) document(f *ast.File) (ast.Node, bool) {
	var body ast.Node
	for _, doc := range f.Docs {
		switch doc.Body.(type) {
		case nil, *ast.DirectiveNode, *ast.CommentGroupNode:
			continue
		}
		if body != nil {
			at := at(place{position: position{1, 1}}, doc.Body)
			d.report(at.place, "a second YAML document begins here; keep one document in the file")
			return nil, false
		}
		body = doc.Body
	}
	if body == nil {
		body = ast.Mapping(token.New("", "", &token.Position{Line: 1, Column: 1}), true)
	}
	return body, true
}
