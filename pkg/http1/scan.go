// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"encoding/binary"
	"math/bits"
)

// isToken tells which bytes a token may have (RFC 9110, 5.6.2).
var isToken = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-'a'+'A'] = true, true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special finds the first control character (below 0x20, or 0x7f) at or after
// i; len(b) if there is none. Eight bytes at a time: a byte's high bit is set in
// the sum where the byte matches, and above the first match means nothing.
func special(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		del := x ^ ones*0x7f
		if m := ((x - ones*0x20) &^ x & highs) | ((del - ones) &^ del & highs); m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 || c == 0x7f {
			return i
		}
	}
	return i
}

// field is one header line; all are indexes of the buffer.
type field struct {
	start, nameEnd, value, valueEnd, next int
}

// scanField reads the line at i. The value is without white space around it.
func scanField(b []byte, i int) (f field, err error) {
	f.start = i
	for i < len(b) && isToken[b[i]] {
		i++
	}
	if i == len(b) {
		return f, ErrShort
	}
	f.nameEnd = i
	if b[i] != ':' {
		return f, badName(b, f.start, i)
	}
	if i == f.start {
		return f, errName
	}
	for i++; i < len(b) && (b[i] == ' ' || b[i] == '\t'); i++ {
	}
	f.value = i
	if i, err = endOfLine(b, i); err != nil {
		return f, err
	}
	f.next = i + 2
	for i > f.value && (b[i-1] == ' ' || b[i-1] == '\t') {
		i--
	}
	f.valueEnd = i
	return f, nil
}

func badName(b []byte, start, i int) error {
	switch c := b[i]; {
	case (c == ' ' || c == '\t') && i == start:
		return errFold
	case c == ' ' || c == '\t':
		return errColon
	case c == '\n' || c == '\r':
		return errLF
	}
	return errName
}

// endOfLine finds the CR LF at or after i that ends the line.
func endOfLine(b []byte, i int) (int, error) {
	for {
		i = special(b, i)
		switch {
		case i == len(b):
			return i, ErrShort
		case b[i] == '\t':
			i++
			continue
		case b[i] == '\n':
			return i, errLF
		case b[i] != '\r':
			return i, errValue
		case i+1 == len(b):
			return i, ErrShort
		case b[i+1] != '\n':
			return i, errLF
		}
		return i, nil
	}
}

// EqualFold tells whether b is the lower-case token s, in whatever case. Both
// are of token characters, of which no two but letters differ in bit 5 alone.
func EqualFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range len(s) {
		if b[i]|0x20 != s[i] {
			return false
		}
	}
	return true
}

// NextToken takes the first element off a comma-separated list, without white
// space around it. Empty elements are skipped; ok is false at the end.
func NextToken(list []byte) (token, rest []byte, ok bool) {
	for len(list) > 0 {
		end := 0
		for end < len(list) && list[end] != ',' {
			end++
		}
		token, rest = trim(list[:end]), list[end:]
		if len(rest) > 0 {
			rest = rest[1:]
		}
		if len(token) > 0 {
			return token, rest, true
		}
		list = rest
	}
	return nil, nil, false
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// number reads 1*DIGIT, up to 2^62.
func number(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
		if n < 0 || n > 1<<62 {
			return 0, false
		}
	}
	return n, true
}
