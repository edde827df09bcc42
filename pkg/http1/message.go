// SPDX-License-Identifier: Apache-2.0

package http1

// Message is what the heads of requests and responses have in common.
type Message struct {
	Minor         int   // of the HTTP version: 1.0 or 1.1
	Len           int   // of the head in bytes, the empty line included
	Line          int   // where the first line begins, after an empty one
	Fields        int   // where the header lines begin
	ContentLength int64 // -1: none is given
	Chunked       bool
	Close         bool   // Connection: close
	KeepAlive     bool   // Connection: keep-alive
	Upgrade       []byte // what Upgrade asks for, if Connection names it
	// Keep is the header lines to pass on, without the empty line. Hop-by-hop
	// headers are not among them, nor those that Connection names.
	Keep Runs

	upgrade   []byte
	options   bool // Connection names other headers
	connected bool // Connection names Upgrade
	count     int  // header lines
}

func (m *Message) reset() {
	*m = Message{ContentLength: -1, Keep: m.Keep[:0]}
}

// framing notes a Content-Length.
func (m *Message) length(value []byte) error {
	if m.ContentLength >= 0 {
		return errLengths
	}
	n, ok := number(value)
	if !ok {
		return errLength
	}
	m.ContentLength = n
	return nil
}

func (m *Message) coding(value []byte) error {
	if m.Chunked {
		return errCodings
	}
	if !EqualFold(value, "chunked") {
		return errCoding
	}
	m.Chunked = true
	return nil
}

// framed checks what only shows when the whole head has been read.
func (m *Message) framed() error {
	switch {
	case m.Chunked && m.ContentLength >= 0:
		return errBoth
	case m.Chunked && m.Minor == 0:
		return errCoding10
	}
	if m.connected {
		m.Upgrade = m.upgrade
	}
	return nil
}

// connection notes what a Connection header says.
func (m *Message) connection(value []byte) {
	for token, rest, ok := NextToken(value); ok; token, rest, ok = NextToken(rest) {
		switch {
		case EqualFold(token, "close"):
			m.Close = true
		case EqualFold(token, "keep-alive"):
			m.KeepAlive = true
		case EqualFold(token, "upgrade"):
			m.connected = true
		default:
			m.options = true
		}
	}
}

// protected headers are needed to understand the message: Connection cannot
// remove them.
func protected(name []byte) bool {
	return EqualFold(name, "host") || EqualFold(name, "content-length") || EqualFold(name, "transfer-encoding")
}

// maxOptions bounds the headers that Connection may name: each costs a
// comparison with every header.
const maxOptions = 32

// dropOptions takes the headers that Connection names out of Keep. The lines
// have been checked.
func (m *Message) dropOptions(b []byte) error {
	var named [][]byte
	each(b, m.Fields, func(f field) {
		if EqualFold(b[f.start:f.nameEnd], "connection") {
			for token, rest, ok := NextToken(b[f.value:f.valueEnd]); ok; token, rest, ok = NextToken(rest) {
				named = append(named, token)
			}
		}
	})
	if len(named) > maxOptions {
		return errOptions
	}
	var keep Runs
	for _, run := range m.Keep {
		for i := int(run.Start); i < int(run.End); {
			f, err := scanField(b, i)
			if err != nil {
				return err // not reached: the line was read before
			}
			if !isNamed(named, b[f.start:f.nameEnd]) {
				keep = keep.keep(f.start, f.next)
			}
			i = f.next
		}
	}
	m.Keep = append(m.Keep[:0], keep...)
	return nil
}

func isNamed(named [][]byte, name []byte) bool {
	if protected(name) {
		return false
	}
	for _, n := range named {
		if same(n, name) {
			return true
		}
	}
	return false
}

// same compares without regard to the case of letters.
func same(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		if lower(c) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// each calls f for the header lines from i up to the empty one.
func each(b []byte, i int, f func(field)) {
	for i < len(b) && b[i] != '\r' {
		line, err := scanField(b, i)
		if err != nil {
			return
		}
		f(line)
		i = line.next
	}
}

// Each calls f for every header of a parsed head, also of those that are not
// kept.
func (m *Message) Each(b []byte, f func(name, value []byte)) {
	each(b, m.Fields, func(l field) { f(b[l.start:l.nameEnd], b[l.value:l.valueEnd]) })
}
