// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
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

// telling is how TLS ends here to tell a Postgres client why it is refused; nil:
// there is no certificate for the name that it means, or nothing to tell.
func (s *serving) telling(ref *refusal) *tls.Config {
	if s.kind != Postgres || s.name == "" || ref.text == "" || s.cfg.Certificates == nil {
		return nil
	}
	cert := s.cfg.Certificates.Covering(normal(s.name))
	if cert == nil {
		return nil
	}
	cfg := s.Router.tls[Postgres].Clone()
	cfg.SessionTicketsDisabled = true
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }
	return cfg
}

// handshake ends the client's TLS here. crypto/tls sends the alert when it
// fails.
func (s *serving) handshake(ctx context.Context, cfg *tls.Config) error {
	s.c.Unread(s.in.buf)
	s.in.buf = nil
	s.tls = tls.Server(s.c, cfg)
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
	if err := s.handshake(ctx, s.Router.tls[s.kind]); err != nil {
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
	first := s.in.buf
	s.in = nil
	s.relay(to, at, back, tcp, first)
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
