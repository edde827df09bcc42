// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"errors"
	"fmt"
	"io"

	"github.com/fairlead-lb/fairlead/pkg/http1"
)

// maxInterim bounds the answers before the answer (100, 103).
const maxInterim = 32

var (
	errHeadTooLarge = fmt.Errorf("%w: the head of its answer is larger than %d bytes", errNoAnswer, bufferSize-headroom)
	errManyInterim  = fmt.Errorf("%w: too many interim responses", errNoAnswer)
	errUpgrade      = fmt.Errorf("%w: it switched protocols without being asked", errNoAnswer)
)

// framing is how the end of a body is found.
type framing uint8

const (
	noBody framing = iota
	byLength
	byChunks
	byClose
)

// answer passes the replica's answer on, of which n bytes are there. An error
// means that the client has got nothing of it; afterwards there is none.
func (x *exchange) answer(n int) (keep bool, err error) {
	s := x.s
	b := s.out.b[:]
	at, end := headroom, headroom+n
	for interim := 0; ; {
		err := s.resp.Parse(b[at:end], http1.Options{})
		switch {
		case err == nil && s.resp.Status >= 200:
			return x.final(at, end)
		case err == nil && s.resp.Status == 101:
			return x.switched(at, end)
		case err == nil:
			if interim++; interim > maxInterim {
				return false, errManyInterim
			}
			if err := x.interim(b, at); err != nil {
				return false, err
			}
			at += s.resp.Len
			continue
		case !errors.Is(err, http1.ErrShort):
			return false, fmt.Errorf("%w: %w", errNoAnswer, err)
		}
		if at > headroom {
			end = headroom + copy(b[headroom:], b[at:end])
			at = headroom
		}
		if end == len(b) {
			return false, errHeadTooLarge
		}
		n, err := x.up.read(b[end:])
		if err := x.noAnswer(err); err != nil {
			return false, err
		}
		end += n
	}
}

// interim passes a 1xx on to clients that understand it.
func (x *exchange) interim(b []byte, at int) error {
	s := x.s
	if s.req.Minor == 0 || s.resp.Status == 100 && !s.req.Expect {
		return nil
	}
	x.answered = true
	if err := s.sock.write(b[pack(b, at, &s.resp, nil) : at+s.resp.Len]); err != nil {
		return errClient
	}
	return nil
}

// final passes the answer on. The first bytes of the body, which are mostly
// all, are written together with the head.
func (x *exchange) final(at, end int) (keep bool, err error) {
	s, r := x.s, &x.s.resp
	d := download{x: x}
	if x.upload != nil {
		d.broken = !x.upload.hasAnswer()
	} else {
		d.broken = !s.watch.disarm()
	}
	b := s.out.b[:]
	d.frame(r, &s.req)
	bodyAt := at + r.Len
	pass, tail, err := d.take(b[bodyAt:end])
	if err != nil {
		return false, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	x.answered = true
	s.code = r.Status
	keep = d.how != byClose && s.persistent() && !s.t.draining.Load() && (r.Status < 400 || x.uploaded())
	if d.chunks.Bare {
		without(&r.Message, b[at:bodyAt], "transfer-encoding")
		keep = false
	}
	start := pack(b, at, r, s.hop(keep))
	s.sent = int64(bodyAt - start + pass)
	err = s.sock.write(b[start : bodyAt+pass])
	if err == nil {
		err = s.sock.write(tail)
	}
	if err == nil && !d.done {
		err = d.stream()
	}
	return x.end(&d, keep, err), nil
}

// hop is the header line that tells the client whether the connection goes on,
// where the version does not say so.
func (s *session) hop(keep bool) []byte {
	switch {
	case !keep && s.req.Minor == 1:
		return lineClose
	case keep && s.req.Minor == 0:
		return lineKeepAlive
	}
	return nil
}

var (
	lineClose     = []byte("Connection: close\r\n")
	lineKeepAlive = []byte("Connection: keep-alive\r\n")
)

// end gives the connection to the replica back, or up, once the answer is over.
func (x *exchange) end(d *download, keep bool, err error) bool {
	s := x.s
	s.up.Store(nil)
	uploaded := x.whole
	if x.upload != nil {
		uploaded = x.upload.finish(err == nil)
		s.ahead = x.upload.ahead
	}
	if err == nil && uploaded && d.reusable() && s.watch.disarm() {
		x.ep.put(x.up)
	} else {
		x.up.close()
	}
	reason := ""
	if err != nil {
		reason = "the answer was cut off: " + err.Error()
	}
	s.finish(x.v.route, x.ep.key.addr, reason)
	if err != nil {
		// A reset: where the end of the connection is the end of the answer,
		// the client must not take this for the whole.
		_ = s.sock.tcp.SetLinger(0)
		return false
	}
	if !keep && !uploaded {
		s.linger()
	}
	return keep && uploaded
}

// download is the body of an answer on its way to the client.
type download struct {
	x      *exchange
	how    framing
	left   int64 // byLength
	chunks http1.Chunked
	done   bool
	extra  bool // the replica sent more than the answer
	broken bool // the replica's connection ended, or its time had run out
}

// frame finds out how the body ends (RFC 9112, 6.3).
func (d *download) frame(r *http1.Response, req *http1.Request) {
	switch {
	case r.Bodiless(req.Method) || r.ContentLength == 0:
		d.done = true
	case r.Chunked:
		d.how = byChunks
		d.chunks.Bare = req.Minor == 0 // HTTP/1.0 does not know chunks
	case r.ContentLength > 0:
		d.how, d.left = byLength, r.ContentLength
	default:
		d.how = byClose
	}
}

// take reads what came of the body and tells how much of it, moved to the
// front of b, is to be passed on, and what after it.
func (d *download) take(b []byte) (pass int, tail []byte, err error) {
	switch d.how {
	case noBody:
		d.extra = len(b) > 0
	case byLength:
		pass = int(min(d.left, int64(len(b))))
		d.left -= int64(pass)
		d.done, d.extra = d.left == 0, pass < len(b)
	case byChunks:
		read := 0
		if pass, read, tail, err = d.chunks.Next(b); err != nil {
			return 0, nil, err
		}
		d.done, d.extra = d.chunks.Done(), read < len(b)
	case byClose:
		pass = len(b)
	}
	return pass, tail, nil
}

// stream passes on the rest as it comes. It holds no buffer while it waits;
// there is no limit to that (server-sent events), a peer that is gone is found
// out by keep-alive probes.
func (d *download) stream() error {
	s := d.x.s
	s.setAside()
	held := s.out
	s.out = nil
	for !d.done {
		b, n, err := d.x.up.readPooled(held)
		if err != nil {
			d.broken = true
			if d.how == byClose && errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		held = b
		pass, tail, err := d.take(b.b[:n])
		if err == nil {
			s.sent += int64(pass + len(tail))
			err = s.sock.write(b.b[:pass])
		}
		if err == nil {
			err = s.sock.write(tail)
		}
		if err != nil {
			returnBuffer(held)
			return err
		}
	}
	returnBuffer(held)
	return nil
}

// reusable tells whether the next request may follow on the connection.
func (d *download) reusable() bool {
	r := &d.x.s.resp
	return d.done && !d.extra && !d.broken && d.how != byClose && !r.Close && (r.Minor == 1 || r.KeepAlive)
}
