// SPDX-License-Identifier: Apache-2.0

// Package http1 reads HTTP/1 messages in place: a head is parsed in one pass
// over the buffer it came in, what a proxy may pass on is noted as maximal runs
// of bytes, and a chunked body is followed to its end. It does no I/O and keeps
// no buffer.
//
// It is strict (RFC 9112): what two parsers could read differently is an error,
// because that is what request smuggling is made of. Refused are bare LF,
// folded lines, space before a colon, control characters, a Content-Length
// beside Transfer-Encoding, any of Host, Content-Length and Transfer-Encoding
// twice, lists and signs in Content-Length, and codings other than chunked.
package http1

import (
	"errors"
	"net/http"
)

// ErrShort says that the message goes on beyond the bytes given.
var ErrShort = errors.New("message is not whole yet")

// Error is why a message is refused.
type Error struct {
	Status int    // the answer to a client that sent it
	Reason string // in words
}

// Error is the reason.
func (e *Error) Error() string { return e.Reason }

func refuse(status int, reason string) *Error { return &Error{status, reason} }

// What is refused, and why. They are made once: a flood of bad requests costs
// no memory.
var (
	errLine      = refuse(http.StatusBadRequest, "the request line is malformed")
	errMethod    = refuse(http.StatusBadRequest, "the method is no token")
	errTarget    = refuse(http.StatusBadRequest, "the request target is malformed")
	errVersion   = refuse(http.StatusHTTPVersionNotSupported, "the HTTP version is not 1.0 or 1.1")
	errConnect   = refuse(http.StatusNotImplemented, "CONNECT is not served")
	errLF        = refuse(http.StatusBadRequest, "a line does not end in CR LF")
	errFold      = refuse(http.StatusBadRequest, "a header line begins with white space (line folding)")
	errName      = refuse(http.StatusBadRequest, "a header name is empty, or no token")
	errColon     = refuse(http.StatusBadRequest, "white space stands before the colon of a header")
	errValue     = refuse(http.StatusBadRequest, "a header value has a control character")
	errMany      = refuse(http.StatusRequestHeaderFieldsTooLarge, "there are too many headers")
	errHosts     = refuse(http.StatusBadRequest, "there is more than one Host header")
	errNoHost    = refuse(http.StatusBadRequest, "there is no Host header")
	errHost      = refuse(http.StatusBadRequest, "the Host header is malformed")
	errAuthority = refuse(http.StatusBadRequest, "the request target names another host than the Host header")
	errLengths   = refuse(http.StatusBadRequest, "there is more than one Content-Length header")
	errLength    = refuse(http.StatusBadRequest, "the Content-Length is no number")
	errBoth      = refuse(http.StatusBadRequest, "there are both Content-Length and Transfer-Encoding")
	errCodings   = refuse(http.StatusBadRequest, "there is more than one Transfer-Encoding header")
	errCoding    = refuse(http.StatusNotImplemented, "the transfer coding is not chunked")
	errCoding10  = refuse(http.StatusBadRequest, "there is a Transfer-Encoding in an HTTP/1.0 message")
	errOptions   = refuse(http.StatusBadRequest, "the Connection header names too many others")
	errStatus    = refuse(http.StatusBadGateway, "the status line is malformed")
	errChunk     = refuse(http.StatusBadRequest, "a chunk is malformed")
	errExtension = refuse(http.StatusBadRequest, "the chunk extensions are too long")
	errTrailer   = refuse(http.StatusBadRequest, "the trailers are malformed or too long")
)

// Span is a run of bytes of the buffer, from Start up to and without End.
type Span struct{ Start, End int32 }

// Runs are the parts of a head that are passed on, in order. Neighbours are
// one run, so an ordinary head is one or two.
type Runs []Span

// Bytes is how many bytes the runs have.
func (r Runs) Bytes() (n int) {
	for _, s := range r {
		n += int(s.End - s.Start)
	}
	return n
}

func (r Runs) keep(start, end int) Runs {
	if n := len(r); n > 0 && int(r[n-1].End) == start {
		r[n-1].End = int32(end)
		return r
	}
	return append(r, Span{int32(start), int32(end)})
}
