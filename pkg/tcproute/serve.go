// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
)

// handle serves one accepted connection.
func (r *Router) handle(ctx context.Context, k Kind, c *conn.Conn) {
	// A stop ends what is not routed; what is goes by its own rules.
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(r.cfg.Patience))
	s := &serving{Router: r, kind: k, c: c, in: &input{r: c}}
	ref := s.serve(ctx)
	if ref == nil {
		return
	}
	r.results.add(k, ref.result)
	if ref.result == Canceled {
		return
	}
	args := []any{"kind", k.Label(), "client", c.Peer, "result", ref.result}
	if s.name != "" {
		args = append(args, "name", s.name)
	}
	if ref.cause != nil {
		args = append(args, "error", ref.cause)
	}
	r.words.info(r.now(), "connection not routed", string(k)+string(ref.result), args...)
}

// serving is a connection on its way to a replica.
type serving struct {
	*Router
	kind Kind
	c    *conn.Conn
	in   *input
	name string // that the client sent
	tls  *tls.Conn
}

// serve brings the connection to a replica, or answers it and says why not.
// Either way somebody else, or nobody, has the connection afterwards.
func (s *serving) serve(ctx context.Context) *refusal {
	if contains(s.table.Load().trusted, s.c.Peer.Addr()) {
		if err := s.c.ReadProxyHeader(); err != nil {
			_ = s.c.Close()
			if errors.Is(err, conn.ErrProxyHeader) {
				return malformed(err)
			}
			return ended(err)
		}
	}
	if s.kind == Postgres {
		cancel, ref := s.in.negotiate(s.c)
		if cancel != nil {
			return s.cancelPlain(ctx, cancel)
		}
		if ref != nil {
			return s.refusePlain(ctx, ref)
		}
	}
	hello, ref := s.in.hello()
	if ref != nil {
		if ref.result == NoTLS {
			ref = noTLS(s.kind)
			if s.kind == Mongo {
				_ = s.in.need(mongoHead) // for the request's id
			}
		}
		if ref.result == Malformed {
			return s.refuseHello(ctx, ref)
		}
		return s.refusePlain(ctx, ref)
	}
	s.name = hello.name
	to, ref := s.table.Load().find(s.kind, hello.name)
	if ref == nil {
		ref = s.admit(to)
	}
	if ref != nil {
		return s.refuseHello(ctx, ref)
	}
	if to.wakes {
		s.c.Routed() // it may be held for long, within the service's own queue
	}
	if to.terminate {
		return s.terminate(ctx, to)
	}
	return s.passthrough(ctx, to)
}

// admit applies the rules of the service.
func (s *serving) admit(to *route) *refusal {
	client := s.c.Peer.Addr()
	switch {
	case !to.permits(client):
		return notAllowed()
	case to.rate.PerSecond > 0 && !s.ledger.admit(to.service.String(), client, to.rate.PerSecond, to.rate.Burst, s.now()):
		return rateLimited()
	case s.flows.count() >= s.cfg.Sessions:
		return &refusal{
			result: Limited, text: "too many connections are open here", hint: "Try again later.",
			state: stateTooMany, code: mongoUnreach, alert: alertInternalError,
		}
	}
	return nil
}

// hopeless tells whether the same client will fare no better next time.
func (r *refusal) hopeless() bool {
	switch r.result {
	case UnknownName, NoName, NoTLS, Malformed, NotAllowed, RateLimited:
		return true
	}
	return false
}

// slow has clients that retry hard wait for their answer.
func (s *serving) slow(ctx context.Context, ref *refusal) {
	if !ref.hopeless() {
		return
	}
	wait := s.ledger.strike(s.c.Peer.Addr(), s.now())
	if wait == 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

// refusePlain answers a client that has not begun TLS.
func (s *serving) refusePlain(ctx context.Context, ref *refusal) *refusal {
	s.slow(ctx, ref)
	if s.kind == Redis && ref.text != "" {
		s.refuseRedis(ref, s.c)
		return ref
	}
	s.farewell(ref, s.c, s.kind.answer(ref, s.in.buf))
	return ref
}

// How long a Redis client is answered that is not served.
const (
	redisRounds  = 8
	redisAnswers = 16 // in a round
	redisTime    = time.Second
)

// refuseRedis answers every command of a few with the error: clients begin
// with HELLO, whose failure they take for an old server and do not show.
func (s *serving) refuseRedis(ref *refusal, c conn.HalfCloser) {
	line := s.kind.answer(ref, nil)
	_ = c.SetDeadline(time.Now().Add(redisTime))
	for range redisRounds {
		commands := bytes.Count(s.in.buf, []byte("\n*")) + 1
		if _, err := c.Write(bytes.Repeat(line, min(commands, redisAnswers))); err != nil {
			break
		}
		s.in.buf = s.in.buf[:0]
		if s.in.fill() != nil {
			break
		}
	}
	conn.Farewell(c, nil)
}

// farewell closes a connection; a client that said nothing is told nothing.
func (s *serving) farewell(ref *refusal, c conn.HalfCloser, answer []byte) {
	if ref.result == Gone || len(answer) == 0 && ref.result == TimedOut {
		_ = c.Close()
		return
	}
	conn.Farewell(c, answer)
}

// refuseHello answers a client that has sent its ClientHello. The text reaches
// a person only inside TLS, and only libpq and pgx show it there.
func (s *serving) refuseHello(ctx context.Context, ref *refusal) *refusal {
	s.slow(ctx, ref)
	_ = s.c.SetDeadline(time.Now().Add(s.cfg.Patience)) // a start may have taken longer
	if s.kind == Postgres && s.name != "" && ref.text != "" && s.holds(normal(s.name)) {
		if s.handshake(ctx) == nil {
			s.refuseInside(ref)
		} else {
			s.farewell(ref, s.c, nil)
		}
		return ref
	}
	s.farewell(ref, s.c, alertRecord(ref.alert))
	return ref
}

// refuseInside answers within TLS, after the client's first message, to which
// it is the answer.
func (s *serving) refuseInside(ref *refusal) {
	s.in.r = s.tls
	_ = s.c.SetDeadline(time.Now().Add(s.cfg.Patience))
	want := 1
	switch s.kind {
	case Postgres:
		want = pgHead
	case Mongo:
		want = mongoHead
	}
	if s.in.need(want) != nil {
		_ = s.tls.Close()
		return
	}
	if s.kind == Redis {
		s.refuseRedis(ref, s.tls)
		return
	}
	conn.Farewell(s.tls, s.kind.answer(ref, s.in.buf))
}

// proxyHeader is what a replica is told of the client; nil: nothing.
func (s *serving) proxyHeader(to *route) []byte {
	if !to.proxy {
		return nil
	}
	return conn.ProxyHeader(s.c.Peer, s.c.Local)
}

// passthrough joins the connection with a replica that ends its TLS.
func (s *serving) passthrough(ctx context.Context, to *route) *refusal {
	first := s.in.buf
	backend, at, ref := s.reach(ctx, to, s.c.Peer.Addr(), func(b net.Conn) error {
		header := s.proxyHeader(to)
		if s.kind == Postgres {
			// Also for a client that began with TLS at once: servers before
			// version 17 do not know that, and newer ones take both.
			if err := requestTLS(b, header); err != nil {
				return err
			}
			header = nil
		}
		_, err := b.Write(append(header, first...))
		return err
	})
	if ref != nil {
		return s.refuseHello(ctx, ref)
	}
	ses := &session{to: to, at: at, client: s.c.Peer, since: s.now()}
	leave := s.flows.add(ses)
	flow, err := s.pump.Start(s.c.TCPConn, backend, func(m conn.Moved) { leave(m.Sent+int64(len(first)), m.Received) })
	if err != nil {
		leave(0, 0)
		return &refusal{result: BackendFailed, cause: err}
	}
	ses.pumped(flow)
	s.results.add(s.kind, Routed)
	return nil
}
