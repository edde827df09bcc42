// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// transport sends requests of HTTP/2 clients to replicas: gRPC over HTTP/2,
// everything else over HTTP/1.1.
type transport struct{ t *Target }

// RoundTrip tries another replica where a connect fails.
func (tr *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	x := streamOf(r.Context())
	p := x.verdict.route.pool
	r = r.WithContext(r.Context())
	if r.Body != nil {
		r.Body = io.NopCloser(r.Body) // another try may need it
	}
	var tried *endpoint
	for n := 1; ; n++ {
		x.ep = p.pick(tried)
		x.ep.inflight.Add(1)
		res, err := x.ep.roundTripper(x.grpc, tr.t.cfg.Limits.Answer).RoundTrip(r)
		if err == nil {
			res.Body = &counted{ReadCloser: res.Body, ep: x.ep}
			return res, nil
		}
		x.ep.inflight.Add(-1)
		if !errors.As(err, new(*dialError)) || n == attempts || len(p.members) == 1 {
			return nil, err
		}
		tried = x.ep
	}
}

// counted is a body whose end is the end of the request.
type counted struct {
	io.ReadCloser
	ep   *endpoint
	done bool
}

func (c *counted) Close() error {
	if !c.done {
		c.done = true
		c.ep.inflight.Add(-1)
	}
	return c.ReadCloser.Close()
}

// roundTripper is net/http's way to the endpoint, made when it is needed.
func (e *endpoint) roundTripper(grpc bool, limit time.Duration) http.RoundTripper {
	e.mu.Lock()
	defer e.mu.Unlock()
	if grpc {
		if e.grpc == nil {
			e.grpc = &http.Transport{
				DialContext: e.dialH2, DialTLSContext: e.dialH2, DisableCompression: true, Protocols: new(http.Protocols),
				HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second},
			}
			e.grpc.Protocols.SetHTTP2(true)
			e.grpc.Protocols.SetUnencryptedHTTP2(true)
		}
		return e.grpc
	}
	if e.plain == nil {
		e.plain = &http.Transport{
			DialContext: e.dialNet, DialTLSContext: e.dialNet,
			DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: idleLimit, ResponseHeaderTimeout: limit,
			MaxResponseHeaderBytes: bufferSize, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10, ExpectContinueTimeout: time.Second,
		}
	}
	return e.plain
}

// dialNet is dial for net/http.
func (e *endpoint) dialNet(ctx context.Context, _, _ string) (net.Conn, error) {
	u, err := e.dial(ctx)
	if err != nil {
		return nil, err
	}
	if u.tls != nil {
		return u.tls, nil
	}
	return u.tcp, nil
}

// dialH2 opens a connection that speaks HTTP/2; with TLS it must say so.
func (e *endpoint) dialH2(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := e.dialer.DialContext(ctx, "tcp", e.key.addr.String())
	if err != nil {
		e.failed()
		return nil, &dialError{e.key.addr, err}
	}
	if e.tls == nil {
		return c, nil
	}
	cfg := e.tls.Clone()
	cfg.NextProtos = []string{"h2"}
	t := tls.Client(c, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, &dialError{e.key.addr, fmt.Errorf("TLS handshake: %w", err)}
	}
	return t, nil
}
