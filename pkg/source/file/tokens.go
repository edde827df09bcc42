// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"unicode/utf8"

	"github.com/goccy/go-yaml/token"
)

// badByte finds the first byte that is not part of UTF-8 text.
func badByte(data []byte) (position, bool) {
	if utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 {
		return position{}, false
	}
	pos := position{1, 1}
	for len(data) > 0 {
		r, n := utf8.DecodeRune(data)
		switch {
		case r == 0 || r == utf8.RuneError && n == 1:
			return pos, true
		case r == '\n':
			pos = position{pos.line + 1, 1}
		default:
			pos.col++
		}
		data = data[n:]
	}
	return pos, true
}

// tooDeep finds nesting that would cost the parser, which recurses, its stack
// or quadratic time: brackets, and indicators in a row ("- - - -"). Nesting by
// indentation is bounded by the file's size and checked on the tree.
func tooDeep(tokens token.Tokens) (position, bool) {
	flow, row, line := 0, 0, 0
	for _, tk := range tokens {
		if flow == 0 && tk.Position.Line != line {
			row, line = 0, tk.Position.Line
		}
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow = max(flow-1, 0)
			row = 0
		case token.CollectEntryType:
			row = 0
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType,
			token.AnchorType, token.AliasType, token.TagType:
			row++
		}
		if flow > maxDepth || row > maxDepth {
			return position{tk.Position.Line, tk.Position.Column}, true
		}
	}
	return position{}, false
}

// joinScalars mends what the library's scanner does inside a flow map: there
// it takes any ':' in a list for that of a pair, so that {upstream:
// [1.1.1.1:53]} holds a map. YAML 1.2.2 section 7.3.3 asks for a space after
// the ':' of a pair whose key is plain.
func joinScalars(in token.Tokens) token.Tokens {
	out := make(token.Tokens, 0, len(in))
	var open []token.Type
	for i := 0; i < len(in); i++ {
		tk := in[i]
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, tk.Type)
		case token.SequenceEndType, token.MappingEndType:
			open = open[:max(len(open)-1, 0)]
		case token.MappingValueType:
			inList := len(open) > 1 && open[len(open)-1] == token.SequenceStartType
			if !inList || i+1 == len(in) || !isPlain(in[i+1]) || !adjacent(tk, in[i+1]) {
				break
			}
			tk = token.String(":"+in[i+1].Value, tk.Origin+in[i+1].Origin, tk.Position)
			i++
			if n := len(out) - 1; n >= 0 && isPlain(out[n]) && adjacent(out[n], tk) {
				tk = token.String(out[n].Value+tk.Value, out[n].Origin+tk.Origin, out[n].Position)
				out = out[:n]
			}
		}
		out = append(out, tk)
	}
	if len(out) == len(in) {
		return in
	}
	for i, tk := range out {
		tk.Prev, tk.Next = nil, nil
		if i > 0 {
			tk.Prev, out[i-1].Next = out[i-1], tk
		}
	}
	return out
}

// isPlain tells that a token is a scalar without quotes.
func isPlain(tk *token.Token) bool {
	return tk.Indicator == token.NotIndicator && tk.CharacterType == token.CharacterTypeMiscellaneous &&
		tk.Type != token.CommentType && tk.Type != token.SpaceType && tk.Type != token.InvalidType
}

// adjacent tells that nothing stands between two tokens.
func adjacent(a, b *token.Token) bool {
	return a.Position.Line == b.Position.Line && a.Position.Column+utf8.RuneCountInString(a.Value) == b.Position.Column
}
