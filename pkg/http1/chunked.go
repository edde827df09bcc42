// SPDX-License-Identifier: Apache-2.0

package http1

// Chunked follows a chunked body (RFC 9112, 7.1) through the buffers it comes
// in. The zero value is at its start.
type Chunked struct {
	// Bare takes the framing off: only the data is passed on, for peers that
	// do not know the coding.
	Bare bool

	state  chunkState
	left   int64  // bytes of the chunk still to come, or its size so far
	digits int    // of the size
	extra  int    // bytes of extensions so far
	trail  []byte // trailer lines so far
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExt
	chunkSizeLF
	chunkData
	chunkCR
	chunkLF
	chunkTrailer    // at the start of a trailer line
	chunkTrailerEnd // after the CR of the empty line
	chunkTrailers   // within trailer lines, which are collected
	chunkDone
)

const (
	maxExtensions = 4 << 10
	maxTrailers   = 8 << 10
)

// Done tells that the body has ended.
func (c *Chunked) Done() bool { return c.state == chunkDone }

// Next reads the bytes that came. It moves what is to be passed on to the
// front of b and returns how many bytes those are and how many were read; what
// is left belongs to the next message. Once Done, tail is what is to be passed
// on after them. Chunk extensions are not passed on (RFC 9112, 7.1.1), nor
// trailers that would change the framing.
func (c *Chunked) Next(b []byte) (pass, read int, tail []byte, err error) {
	keep := 0 // start of the run that is passed on
	put := func(end int) {
		if keep < end {
			if pass != keep {
				copy(b[pass:], b[keep:end])
			}
			pass += end - keep
		}
	}
	i := 0
	for i < len(b) && c.state != chunkDone {
		if c.state == chunkData {
			n := int(min(c.left, int64(len(b)-i)))
			if i += n; c.Bare {
				put(i)
				keep = i
			}
			if c.left -= int64(n); c.left == 0 {
				c.state = chunkCR
			}
			continue
		}
		if c.state == chunkTrailers {
			if !c.Bare {
				put(i)
			}
			n, err := c.collect(b[i:])
			if i += n; err != nil {
				return 0, 0, nil, err
			}
			keep = i
			continue
		}
		from := c.state
		if err := c.step(b[i]); err != nil {
			return 0, 0, nil, err
		}
		switch {
		case c.Bare:
			keep = i + 1
		case c.state == chunkExt:
			if from != chunkExt {
				put(i)
			}
			keep = i + 1
		case from == chunkExt:
			keep = i
		}
		if c.state != chunkTrailers {
			i++
		}
	}
	if !c.Bare {
		put(i)
	}
	if c.state == chunkDone && c.trail != nil {
		tail, c.trail = c.trail, nil
		if c.Bare {
			tail = nil
		}
	}
	return pass, i, tail, nil
}

// step reads one byte of the framing.
func (c *Chunked) step(b byte) error {
	switch c.state {
	case chunkSize:
		switch {
		case hex(b):
			if c.digits++; c.digits > 15 {
				return errChunk
			}
			c.left = c.left<<4 | int64(unhex(b))
		case c.digits == 0:
			return errChunk
		case b == '\r':
			c.state = chunkSizeLF
		case b == ';':
			c.state = chunkExt
		default:
			return errChunk
		}
	case chunkExt:
		if c.extra++; c.extra > maxExtensions {
			return errExtension
		}
		switch {
		case b == '\r':
			c.state = chunkSizeLF
		case b < 0x20 && b != '\t' || b == 0x7f:
			return errChunk
		}
	case chunkSizeLF:
		if b != '\n' {
			return errChunk
		}
		if c.digits = 0; c.left == 0 {
			c.state = chunkTrailer
		} else {
			c.state = chunkData
		}
	case chunkCR:
		if b != '\r' {
			return errChunk
		}
		c.state = chunkLF
	case chunkLF:
		if b != '\n' {
			return errChunk
		}
		c.state = chunkSize
	case chunkTrailer:
		switch {
		case b == '\r':
			c.state = chunkTrailerEnd
		case isToken[b]:
			c.state = chunkTrailers
		default:
			return errTrailer
		}
	case chunkTrailerEnd:
		if b != '\n' {
			return errLF
		}
		c.state = chunkDone
	}
	return nil
}

// collect takes trailer lines until the empty one and then filters them.
func (c *Chunked) collect(b []byte) (n int, err error) {
	for n < len(b) {
		c.trail = append(c.trail, b[n])
		n++
		if t := c.trail; len(t) >= 4 && string(t[len(t)-4:]) == "\r\n\r\n" {
			c.state = chunkDone
			c.trail, err = filterTrailers(t)
			return n, err
		}
	}
	if len(c.trail) > maxTrailers {
		return n, errTrailer
	}
	return n, nil
}

// filterTrailers checks the lines and takes those out that have no business in
// trailers (RFC 9110, 6.5.1).
func filterTrailers(t []byte) ([]byte, error) {
	out := t[:0]
	i := 0
	for n := 0; t[i] != '\r'; n++ {
		f, err := scanField(t, i)
		if err != nil || n == 100 {
			return nil, errTrailer
		}
		if !framesOrRoutes(t[f.start:f.nameEnd]) {
			out = append(out, t[f.start:f.next]...)
		}
		i = f.next
	}
	if i+2 != len(t) || t[i+1] != '\n' {
		return nil, errTrailer
	}
	return append(out, '\r', '\n'), nil
}

func framesOrRoutes(name []byte) bool {
	if protected(name) {
		return true
	}
	for _, s := range []string{
		"connection", "upgrade", "te", "trailer", "keep-alive", "expect", "authorization", "proxy-authorization", "set-cookie", "cookie",
		"forwarded", "x-request-id", "x-real-ip", "cache-control", "content-encoding", "content-type", "content-range",
	} {
		if _, like := alike(name, s); like {
			return true
		}
	}
	const family = "x-forwarded-"
	if len(name) > len(family) {
		_, like := alike(name[:len(family)], family)
		return like
	}
	return false
}

func unhex(c byte) byte {
	if digit(c) {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
