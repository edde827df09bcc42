// SPDX-License-Identifier: Apache-2.0

package ingress

import "bytes"

// simple tells of a path that everybody reads the same way: no escapes, no
// empty or dot segments.
func simple(path []byte) bool {
	for i, c := range path {
		switch c {
		case '%':
			return false
		case '/':
			if i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
				return false
			}
		}
	}
	return true
}

// decode appends the path with its escapes taken off. An escaped slash is data
// within a segment and stays as %2F. ok is false for escapes that are none, or
// that stand for NUL.
func decode(dst, path []byte) (out []byte, ok bool) {
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c != '%' {
			dst = append(dst, c)
			continue
		}
		if i+2 >= len(path) {
			return dst, false
		}
		hi, ok1 := nibble(path[i+1])
		lo, ok2 := nibble(path[i+2])
		v := hi<<4 | lo
		if !ok1 || !ok2 || v == 0 {
			return dst, false
		}
		if i += 2; v == '/' {
			dst = append(dst, "%2F"...)
		} else {
			dst = append(dst, v)
		}
	}
	return dst, true
}

func nibble(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// resolve takes empty and dot segments out of a decoded path, as servers that
// map paths to files do (RFC 3986, 5.2.4).
func resolve(path []byte) []byte {
	out := make([]byte, 0, len(path))
	for seg := range bytes.SplitSeq(path, []byte("/")) {
		switch string(seg) {
		case "", ".":
		case "..":
			out = out[:max(bytes.LastIndexByte(out, '/'), 0)]
		default:
			out = append(append(out, '/'), seg...)
		}
	}
	if len(out) == 0 || path[len(path)-1] == '/' {
		out = append(out, '/')
	}
	return out
}

// find is the route of a path as it came. Where the path leads elsewhere once
// dot segments are resolved, servers could disagree about whose it is:
// ambiguous, as is an escape that is none.
func (h *host) find(path []byte) (r *route, ambiguous bool) {
	if simple(path) || h.only != nil && bytes.IndexByte(path, '%') < 0 {
		return h.match(path), false
	}
	decoded, ok := decode(nil, path)
	if !ok {
		return nil, true
	}
	if h.only != nil {
		return h.only, false
	}
	r = h.match(decoded)
	return r, h.match(resolve(decoded)) != r
}

// stripped takes the prefix of a route off a path as it came.
func (r *route) stripped(path []byte) []byte {
	i, n := 0, 0
	if r.prefix == "/" {
		return path
	}
	for n < len(r.prefix) && i < len(path) {
		if path[i] != '%' || i+2 >= len(path) {
			i++
			n++
			continue
		}
		if path[i+1] == '2' && path[i+2]|0x20 == 'f' {
			n += 2 // stands as %2F in the prefix
		}
		i += 3
		n++
	}
	return path[i:]
}
