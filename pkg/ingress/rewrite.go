// SPDX-License-Identifier: Apache-2.0

package ingress

import "github.com/fairlead-lb/fairlead/pkg/http1"

// appendHead writes the head towards the replica: what the client sent in as
// few copies as there are runs, and then what is ours to say.
func (s *session) appendHead(b []byte, x *exchange) []byte {
	r, in := &s.req, s.headBytes()
	runs := r.Keep
	switch {
	case x.path == nil && r.Plain && len(runs) > 0 && int(runs[0].Start) == r.Fields:
		b = append(b, in[r.Line:runs[0].End]...)
		runs = runs[1:]
	case x.path == nil && r.Plain:
		b = append(b, in[r.Line:r.Fields]...)
	default:
		b = append(append(b, r.Method...), ' ')
		if x.path != nil {
			b = append(append(b, x.path...), x.query...)
		} else {
			b = append(append(b, r.Path...), r.Query...)
		}
		b = append(b, " HTTP/1.1\r\n"...)
	}
	for _, run := range runs {
		b = append(b, in[run.Start:run.End]...)
	}
	b = append(append(b, "X-Request-ID: "...), s.id[:s.idN]...)
	b = append(b, "\r\nX-Forwarded-For: "...)
	if r.ForwardedFor != nil {
		b = append(append(b, r.ForwardedFor...), ", "...)
	}
	b = append(append(b, s.text...), "\r\nX-Forwarded-Host: "...)
	if r.ForwardedHost != nil {
		b = append(b, r.ForwardedHost...)
	} else {
		b = append(b, r.Host...)
	}
	switch {
	case r.ForwardedProto != nil:
		b = append(append(b, "\r\nX-Forwarded-Proto: "...), r.ForwardedProto...)
	case s.secure:
		b = append(b, "\r\nX-Forwarded-Proto: https"...)
	default:
		b = append(b, "\r\nX-Forwarded-Proto: http"...)
	}
	if r.TraceParent == nil {
		b = appendTrace(append(b, "\r\ntraceparent: "...))
	}
	if x.socket {
		b = append(append(b, "\r\nConnection: Upgrade\r\nUpgrade: "...), r.Upgrade...)
	}
	return append(b, "\r\n\r\n"...)
}

// headBytes is the buffer as it was parsed.
func (s *session) headBytes() []byte { return s.in.b[s.headAt:] }

// pack moves the head of a response to the end of its place in b and puts
// added lines after the status line, so that the body that follows stays where
// it is. at is where the head was parsed; the result is where it begins now,
// at most headroom before.
func pack(b []byte, at int, r *http1.Response, added []byte) int {
	end := at + r.Len
	to := end - 2 // the empty line stays
	for i := len(r.Keep) - 1; i >= 0; i-- {
		from, until := at+int(r.Keep[i].Start), at+int(r.Keep[i].End)
		to -= until - from
		if to != from {
			copy(b[to:], b[from:until])
		}
	}
	to -= len(added) + r.Fields
	if to != at { // first: the added lines may go where the status line was
		copy(b[to:], b[at:at+r.Fields])
	}
	copy(b[to+r.Fields:], added)
	if r.Minor == 0 {
		b[to+len("HTTP/1.")] = '1'
	}
	return to
}

// without takes the lines of a name out of what is passed on.
func without(m *http1.Message, b []byte, name string) {
	keep := m.Keep[:0:0]
	for _, run := range m.Keep {
		for i := run.Start; i < run.End; {
			line := b[i:run.End]
			n, c := int32(0), 0
			for line[n] != '\n' {
				if line[n] == ':' && c == 0 {
					c = int(n)
				}
				n++
			}
			n++
			if !http1.EqualFold(line[:c], name) {
				keep = append(keep, http1.Span{Start: i, End: i + n})
			}
			i += n
		}
	}
	m.Keep = append(m.Keep[:0], keep...)
}
