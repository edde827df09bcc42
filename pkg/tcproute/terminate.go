// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
)

// holds tells whether there is a certificate for a name.
func (r *Router) holds(host string) bool {
	return r.cfg.Certificates != nil && r.cfg.Certificates.Holds(host)
}

func (r *Router) serverTLS(k Kind) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if r.cfg.Certificates == nil {
				return nil, errors.New("no certificates here")
			}
			return r.cfg.Certificates.GetCertificate(h)
		},
	}
	if k == Postgres {
		c.NextProtos = []string{alpnPostgres}
	}
	return c
}

// handshake ends the client's TLS here. crypto/tls sends the alert when it
// fails.
func (s *serving) handshake(ctx context.Context) error {
	s.c.Unread(s.in.buf)
	s.in.buf = nil
	s.tls = tls.Server(s.c, s.Router.tls[s.kind])
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	_ = s.c.SetDeadline(time.Now().Add(s.cfg.Patience))
	return s.tls.HandshakeContext(ctx)
}

// terminate ends TLS here and joins what is inside with a replica.
func (s *serving) terminate(ctx context.Context, to *route) *refusal {
	if !s.holds(to.host) {
		return s.refuseHello(ctx, noCertificate(to.host, nil))
	}
	if err := s.handshake(ctx); err != nil {
		s.farewell(&refusal{result: Handshake}, s.c, nil)
		return &refusal{result: Handshake, cause: err}
	}
	s.in.r = s.tls
	if s.kind == Postgres {
		// The startup packet is read before a replica is looked for: it may be
		// a CancelRequest, and an error must be an answer to it.
		length, code, err := s.in.head()
		if err != nil {
			_ = s.tls.Close()
			return ended(err)
		}
		if code == pgCancel {
			cancel, ref := s.in.cancelRequest(length)
			if ref == nil {
				ref = s.cancel(ctx, cancel)
			}
			_ = s.tls.Close()
			return ref
		}
	}
	var back conn.HalfCloser
	tcp, at, ref := s.reach(ctx, to, s.c.Peer.Addr(), func(b net.Conn) (err error) {
		back, err = s.greet(ctx, to, b.(*net.TCPConn))
		return err
	})
	if ref != nil {
		s.refuseInside(ref)
		return ref
	}
	s.c.Routed()
	_ = s.c.SetDeadline(time.Time{})
	_ = tcp.SetDeadline(time.Time{})
	s.results.add(s.kind, Routed)
	s.relay(to, at, back, tcp)
	return nil
}

// greet says to a replica what comes before the client's bytes.
func (s *serving) greet(ctx context.Context, to *route, b *net.TCPConn) (conn.HalfCloser, error) {
	header := s.proxyHeader(to)
	if to.tls == nil {
		if len(header) == 0 {
			return b, nil
		}
		_, err := b.Write(header)
		return b, err
	}
	if s.kind == Postgres {
		if err := requestTLS(b, header); err != nil {
			return nil, err
		}
	} else if len(header) > 0 {
		if _, err := b.Write(header); err != nil {
			return nil, err
		}
	}
	t := tls.Client(b, to.tls)
	return t, t.HandshakeContext(ctx)
}

// relay copies both ways until both sides have ended, or one has failed.
func (s *serving) relay(to *route, at netip.AddrPort, back conn.HalfCloser, tcp *net.TCPConn) {
	cut := func() {
		_ = s.c.SetLinger(0)
		_ = tcp.SetLinger(0)
		_ = s.c.Close()
		_ = tcp.Close()
	}
	ses := &session{to: to, at: at, abort: cut, client: s.c.Peer, since: s.now()}
	leave := s.flows.add(ses)
	var sent, received int64
	var watch func([]byte)
	if s.kind == Postgres {
		k := &keyWatch{found: func(key string) { s.flows.cancelable(ses, key) }}
		watch = k.see
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		k, err := back.Write(s.in.buf)
		s.in.buf = nil
		if err == nil {
			sent, err = stream(back, s.tls, nil)
		}
		sent += int64(k)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			cut()
			return
		}
		// Many clients end without TLS's own goodbye. What they said is whole
		// for the replica's protocol to judge.
		_ = back.CloseWrite()
	})
	var err error
	if received, err = stream(s.tls, back, watch); err != nil {
		cut()
	} else {
		_ = s.tls.CloseWrite() // refused where the client is gone: the other direction sees it
	}
	wg.Wait()
	_ = s.tls.Close()
	_ = back.Close()
	leave(sent, received)
}

// Sizes of the buffers of stream. An idle direction holds the small one only.
const (
	streamSmall = 1 << 10
	streamLarge = 32 << 10
)

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, streamLarge); return &b }}

// stream copies until the end of src. see, if there is one, is shown the
// bytes.
func stream(dst, src net.Conn, see func([]byte)) (n int64, err error) {
	small := make([]byte, streamSmall)
	var large *[]byte
	defer func() {
		if large != nil {
			largeBuffers.Put(large)
		}
	}()
	for {
		buf := small
		if large != nil {
			buf = *large
		}
		k, err := src.Read(buf)
		if see != nil {
			see(buf[:k])
		}
		if k > 0 {
			m, err := dst.Write(buf[:k])
			n += int64(m)
			if err != nil {
				return n, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, err
		case large == nil && k == len(small):
			large = largeBuffers.Get().(*[]byte)
		case large != nil && k < len(small):
			largeBuffers.Put(large)
			large = nil
		}
	}
}
