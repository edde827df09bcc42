// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"context"
	"crypto/tls"
	"io"
	"net"
)

// cancelPlain hands on a CancelRequest that came without TLS, as clients
// before version 17 send it. It has no name; the key alone says whose it is,
// and only keys of terminated connections have been seen. A server answers no
// CancelRequest, and neither does this.
func (s *serving) cancelPlain(ctx context.Context, request []byte) *refusal {
	ref := s.cancel(ctx, request)
	if ref.result == CancelUnknown {
		s.slow(ctx, &refusal{result: NoName}) // nobody tries keys at leisure
	}
	_ = s.c.Close()
	return ref
}

// cancel brings a CancelRequest to the replica that gave out its key, and
// waits until that has dealt with it: it closes the connection then.
func (s *serving) cancel(ctx context.Context, request []byte) *refusal {
	ses, ok := s.flows.canceled(string(request[pgHead:]))
	if !ok || !ses.to.permits(s.c.Peer.Addr()) {
		return &refusal{result: CancelUnknown}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := s.connect(ctx, ses.at, func(b net.Conn) error {
		back, err := s.greet(ctx, ses.to, b.(*net.TCPConn))
		if err != nil {
			return err
		}
		if _, err := back.Write(request); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, back)
		if t, ok := back.(*tls.Conn); ok {
			_ = t.Close()
		}
		return nil
	})
	if err != nil {
		return &refusal{result: BackendFailed, cause: err}
	}
	_ = c.Close()
	return &refusal{result: Canceled}
}
