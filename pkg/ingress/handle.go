// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/http1"
)

// handle answers the request whose head was read, and tells whether the
// connection can take another one.
func (s *session) handle() bool {
	r := &s.req
	s.sent, s.code = 0, 0
	s.identify()
	s.hostN = len(lowerHost(s.host[:0], r.Host))
	q := query{
		host: s.host[:s.hostN], path: r.Path, secure: s.secure, tls: s.sock.tls, client: s.client,
		socket: len(r.Upgrade) > 0 && http1.EqualFold(r.Upgrade, "websocket"),
	}
	s.headAt = s.start
	s.start += r.Len // what follows is the body, or the next request
	if bytes.HasPrefix(r.Path, challengePath) {
		if a, ok := s.challenge(); ok {
			return s.reply(nil, &a, "")
		}
	}
	s.v = s.table.decide(&q, s.t.cfg.Certificates)
	if s.v.wake {
		q.person = string(r.Method) == http.MethodGet && !q.socket && wantsHTML(r.Accept)
		s.table, s.v = s.t.wake(s.t.ctx, &q, s.v)
	} else if s.v.lacks {
		s.t.explain(&s.v)
	}
	v := &s.v
	switch {
	case v.fault.code != 0:
		return s.fail(v, &v.fault)
	case v.redirect:
		a := s.redirect()
		return s.reply(v.route, &a, "")
	case v.empty:
		return s.empty(v)
	case v.keys:
		a := s.t.keysFor(string(s.req.Method), s.req.Accept, string(s.id[:s.idN]))
		return s.reply(nil, &a, "")
	}
	return s.forward(v, q.socket)
}

// identify finds out who asks, and gives the request its id.
func (s *session) identify() {
	r := &s.req
	s.client = s.peer
	if !s.table.isTrusted(s.peer) {
		r.ForwardedFor, r.ForwardedHost, r.ForwardedProto = nil, nil, nil
		s.idN = len(appendUUID(s.id[:0]))
		return
	}
	s.client = clientOf(s.table, r.ForwardedFor, s.peer)
	if saneID(r.RequestID) {
		s.idN = copy(s.id[:], r.RequestID)
		return
	}
	s.idN = len(appendUUID(s.id[:0]))
}

// clientOf is the last address of X-Forwarded-For that is no trusted proxy.
func clientOf(t *table, list []byte, peer netip.Addr) netip.Addr {
	client := peer
	for len(list) > 0 {
		i := bytes.LastIndexByte(list, ',')
		a, err := netip.ParseAddr(strings.TrimSpace(string(list[i+1:])))
		if err != nil {
			return client
		}
		if client = a.Unmap(); !t.isTrusted(client) || i < 0 {
			return client
		}
		list = list[:i]
	}
	return client
}

// redirect is the answer that sends a client to HTTPS.
func (s *session) redirect() answer {
	r := &s.req
	a := answer{code: http.StatusPermanentRedirect, id: string(s.id[:s.idN])}
	if m := string(r.Method); m == http.MethodGet || m == http.MethodHead {
		a.code = http.StatusMovedPermanently
	}
	a.location = "https://" + string(s.host[:s.hostN]) + s.table.https + string(r.Path) + string(r.Query)
	return a
}

// empty answers for a service that has nothing to run.
func (s *session) empty(v *verdict) bool {
	if m := string(s.req.Method); m != http.MethodGet && m != http.MethodHead {
		return s.fail(v, &fault{code: http.StatusServiceUnavailable, reason: "nothing is deployed here yet", retry: retryAfter})
	}
	a := placeholderFor(v.route.service, string(s.id[:s.idN]))
	return s.reply(v.route, &a, "")
}

// fail answers with a fault.
func (s *session) fail(v *verdict, f *fault) bool {
	a := f.answer(s.req.Accept, string(s.id[:s.idN]))
	return s.reply(v.route, &a, f.reason)
}

// reply writes an answer of our own. The connection goes on if the request's
// body is here already and can be skipped.
func (s *session) reply(r *route, a *answer, reason string) bool {
	keep := s.skipBody() && s.persistent() && a.code != http.StatusBadRequest && !s.t.draining.Load()
	b := a.append(nil, string(s.req.Method) == http.MethodHead, !keep)
	s.code, s.sent = a.code, int64(len(b))
	err := s.sock.write(b)
	s.finish(r, netip.AddrPort{}, reason)
	if err == nil && !keep {
		s.linger()
	}
	return err == nil && keep
}

// persistent tells whether the client wants the connection to go on.
func (s *session) persistent() bool {
	return !s.req.Close && (s.req.Minor == 1 || s.req.KeepAlive)
}

// skipBody passes over a body that came with the head, and tells whether that
// was all of it.
func (s *session) skipBody() bool {
	have := s.in.b[s.start:s.end]
	switch {
	case s.req.Chunked:
		var c http1.Chunked
		_, n, _, err := c.Next(have)
		s.start += n
		return err == nil && c.Done()
	case s.req.ContentLength > int64(len(have)):
		return false
	case s.req.ContentLength > 0:
		s.start += int(s.req.ContentLength)
	}
	return true
}

// finish counts and logs the request that has been answered, or given up.
func (s *session) finish(r *route, replica netip.AddrPort, reason string) {
	svc := s.t.nobody
	if r != nil {
		svc = r.service
	}
	took := s.t.clock.now() - s.begun
	svc.stats.count(s.code, took)
	if !s.t.access.wants(s.code) {
		return
	}
	e := &s.log
	if e.method == "" {
		s.note()
	}
	e.service, e.client, e.replica, e.status, e.took, e.sent, e.reason = svc.text, s.client, replica, s.code, time.Duration(took), s.sent, reason
	s.t.access.write(e)
	*e = entry{}
}

// note copies what the log shows of a request out of its buffer.
func (s *session) note() {
	r, e := &s.req, &s.log
	e.method, e.path, e.host = string(r.Method), string(r.Path), string(s.host[:s.hostN])
	e.id, e.agent, e.trace = string(s.id[:s.idN]), string(r.UserAgent), string(r.TraceParent)
	e.proto = "HTTP/1." + string(rune('0'+r.Minor))
}
