// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/http1"
)

// attempts is how many replicas, or connections to them, one request may try.
const attempts = 3

// Why a try gave no answer.
var (
	errNoAnswer = errors.New("the replica closed the connection without an answer")
	errClient   = errors.New("the client is gone")
	errTooSlow  = errors.New("the replica did not answer in time")
)

var errSocketBody = &http1.Error{Status: http.StatusBadRequest, Reason: "a request for an upgrade has a body"}

// statusGone is what is counted when the client went away before the answer
// (as nginx does; no such status is ever sent).
const statusGone = 499

// forward sends the request to a replica and its answer to the client.
func (s *session) forward(v *verdict, socket bool) bool {
	s.x = exchange{s: s, v: v, pool: v.route.pool, socket: socket}
	x := &s.x
	path, query, err := v.route.path(s.req.Path, s.req.Query)
	if err != nil {
		return s.fail(v, &fault{code: http.StatusBadRequest, reason: err.Error()})
	}
	x.path, x.query = path, query
	if err := x.body(); err != nil {
		return s.fail(v, &fault{code: err.Status, reason: err.Reason})
	}
	v.route.service.active.Add(1)
	defer v.route.service.active.Add(-1)
	s.waits.Store(s.t.clock.coarse.Load())
	s.serving.Store(v.route.service)
	defer s.serving.Store(nil)
	var tried *endpoint
	for n := 1; ; n++ {
		x.ep = x.pool.pick(tried)
		x.ep.inflight.Add(1)
		keep, err := x.try()
		x.ep.inflight.Add(-1)
		if err == nil {
			return keep
		}
		if n < attempts && x.mayRetry(err) {
			tried = x.ep
			continue
		}
		return x.failed(err)
	}
}

// exchange is one request on its way, over as many tries as it takes.
type exchange struct {
	s           *session
	v           *verdict
	pool        *pool // the route's, or a newer one
	ep          *endpoint
	up          *upstream
	path, query []byte // towards the replica; nil: as they came
	socket      bool

	have     []byte        // of the body, as it is to be passed on
	tail     []byte        // trailers of a body that is here
	whole    bool          // that is all of the body
	chunks   http1.Chunked // where the body is
	upload   *upload       // what brings the rest
	answered bool          // the client has got some of the answer
	heard    bool          // the replica has said something
}

// try makes one try. An error tells that the client has got nothing yet; the
// connection to the replica is closed then.
func (x *exchange) try() (keep bool, err error) {
	s := x.s
	careful := !x.replayable()
	if x.up = x.ep.take(careful); x.up == nil {
		if x.up, err = x.ep.dial(context.Background()); err != nil {
			return false, err
		}
	}
	x.heard = false
	s.up.Store(x.up)
	if s.out == nil {
		s.out = takeBuffer()
	}
	head := s.appendHead(s.out.b[:0], x)
	n, err := x.send(head)
	if err == nil {
		x.heard = true
		keep, err = x.answer(n)
	}
	if err == nil {
		return keep, nil
	}
	if x.upload != nil {
		err = x.upload.abort(err)
		x.upload = nil
	}
	s.up.Store(nil)
	x.up.close()
	return false, err
}

// send writes the request and reads the first bytes of the answer.
func (x *exchange) send(head []byte) (n int, err error) {
	s := x.s
	into := s.out.b[headroom:]
	fits := len(x.have) <= cap(head)-len(head)
	if fits {
		head = append(head, x.have...)
	}
	if fits && x.whole && x.tail == nil {
		s.watch.arm(s.t.clock, onReplica, s.t.cfg.Limits.Answer)
		n, err = x.up.exchange(head, into)
	} else {
		s.watch.arm(s.t.clock, onReplica, s.t.cfg.Limits.Stall)
		err = x.up.write(head)
		if !fits && err == nil {
			err = x.up.write(x.have)
		}
		if err == nil {
			err = x.up.write(x.tail)
		}
		// An early answer may stand behind a failed write.
		if !x.whole && err == nil {
			s.watch.disarm()
			x.startUpload()
		} else {
			s.watch.arm(s.t.clock, onReplica, s.t.cfg.Limits.Answer)
		}
		n, err = x.up.read(into)
	}
	return n, x.noAnswer(err)
}

// noAnswer puts an error of reading the answer into words.
func (x *exchange) noAnswer(err error) error {
	switch {
	case x.s.gone.Load():
		return errClient
	case x.s.watch.at.Load() == expired:
		return errTooSlow
	case err == nil:
		return nil
	case timedOut(err):
		return errTooSlow
	}
	return fmt.Errorf("%w: %w", errNoAnswer, err)
}

// body sees how much of the request's body is here.
func (x *exchange) body() *http1.Error {
	s := x.s
	have := s.in.b[s.start:s.end]
	switch {
	case s.req.Chunked:
		pass, read, tail, err := x.chunks.Next(have)
		if err != nil {
			var bad *http1.Error
			errors.As(err, &bad)
			return bad
		}
		x.have, x.tail, x.whole = have[:pass], tail, x.chunks.Done()
		s.start += read
	default:
		n := int(min(max(s.req.ContentLength, 0), int64(len(have))))
		x.have, x.whole = have[:n], int64(n) >= s.req.ContentLength
		s.start += n
	}
	if x.socket && (s.req.Chunked || s.req.ContentLength > 0) {
		return errSocketBody
	}
	return nil
}

// replayable tells whether the request may be sent twice: it changes nothing,
// or the same twice (RFC 9110, 9.2.2), and all of it is here.
func (x *exchange) replayable() bool {
	return x.whole && !x.socket && idempotent(x.s.req.Method)
}

func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}

// mayRetry tells whether another try is safe after the error.
func (x *exchange) mayRetry(err error) bool {
	var dial *dialError
	switch {
	case x.answered || x.s.t.ctx.Err() != nil:
		return false
	case errors.As(err, &dial):
		return x.others()
	case errors.Is(err, errNoAnswer) && !x.heard:
		// A connection kept from before may have ended just now; a new one that
		// gives no answer would do so again.
		return x.replayable() && (x.up.reused || x.others())
	}
	return false
}

// others tells whether another try may go elsewhere: to another replica, or to
// those of the route as it is by now.
func (x *exchange) others() bool {
	s := x.s
	if now := s.t.table.Load(); now != s.table {
		if h := now.lookup(s.host[:s.hostN]); h != nil {
			if r, _ := h.find(s.req.Path); r != nil && r.service == x.v.route.service && len(r.pool.members) > 0 {
				x.pool = r.pool
				return true
			}
		}
	}
	return len(x.pool.members) > 1
}

// failed answers for a replica that did not.
func (x *exchange) failed(err error) bool {
	s := x.s
	s.watch.disarm()
	if errors.Is(err, errClient) || x.answered {
		s.code = statusGone
		s.finish(x.v.route, x.ep.key.addr, err.Error())
		return false
	}
	f := fault{code: http.StatusBadGateway, reason: s.t.reason(err)}
	if errors.Is(err, errTooSlow) {
		f = fault{code: http.StatusGatewayTimeout, reason: fmt.Sprintf("the replica did not answer within %s", s.t.cfg.Limits.Answer)}
	}
	var bad *http1.Error
	var body *bodyError
	switch {
	case errors.As(err, &body) && errors.As(err, &bad):
		f = fault{code: bad.Status, reason: bad.Reason}
	case errors.As(err, &bad):
		f.reason = "the replica's answer is refused: " + bad.Reason
	}
	a := f.answer(s.req.Accept, string(s.id[:s.idN]))
	keep := x.whole && s.persistent() && !s.t.draining.Load()
	b := a.append(nil, string(s.req.Method) == http.MethodHead, !keep)
	s.code, s.sent = a.code, int64(len(b))
	err = s.sock.write(b)
	s.finish(x.v.route, x.ep.key.addr, f.reason)
	if err == nil && !keep {
		s.linger()
	}
	return err == nil && keep
}

// path is what the replica is asked for: nil for what the client asked for.
func (r *route) path(path, query []byte) (newPath, newQuery []byte, err error) {
	if !r.strip && r.rewrite == nil || len(path) == 1 && path[0] == '*' {
		return nil, nil, nil
	}
	if r.strip {
		path = r.stripped(path)
		if len(path) == 0 || path[0] != '/' {
			path = append([]byte{'/'}, path...)
		}
	}
	if r.rewrite == nil {
		return path, query, nil
	}
	return rewritten(r, path, query)
}

var errRewrite = errors.New("the rewrite of this path makes no path")

// rewritten replaces the matches of a route's expression. A query in the
// target comes before the client's.
func rewritten(r *route, path, query []byte) (newPath, newQuery []byte, err error) {
	out := r.rewrite.ReplaceAll(path, []byte(r.target))
	if len(out) == 0 || out[0] != '/' {
		return nil, nil, errRewrite
	}
	for _, c := range out {
		if c <= 0x20 || c == 0x7f || c == '#' {
			return nil, nil, errRewrite
		}
	}
	i := slices.Index(out, '?')
	if i < 0 {
		return out, query, nil
	}
	newQuery = out[i:]
	if len(query) > 1 {
		newQuery = append(append(slices.Clone(newQuery), '&'), query[1:]...)
	}
	return out[:i:i], newQuery, nil
}
