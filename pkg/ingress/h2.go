// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/http1"
)

// setH2 makes the engine of HTTP/2 clients: a server of net/http that is given
// connections one by one.
func (t *Target) setH2() {
	l := &t.cfg.Limits
	t.h2 = &http.Server{
		MaxHeaderBytes: l.HeaderListSize, IdleTimeout: l.Idle, ErrorLog: slog.NewLogLogger(t.cfg.Log.Handler(), slog.LevelDebug),
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: l.Streams, MaxReadFrameSize: 16 << 10, WriteByteTimeout: l.Stall,
			MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, sessionKey{}, t.handed.sessionOf(c))
		},
		ConnState: t.handed.state,
		Handler:   http.HandlerFunc(t.serveStream),
	}
	t.h2.Protocols.SetHTTP2(true)
	t.h2.Protocols.SetUnencryptedHTTP2(true)
	t.proxy = &httputil.ReverseProxy{
		Rewrite: t.rewriteH2, Transport: &transport{t}, FlushInterval: -1, BufferPool: pooled{},
		ErrorHandler: t.failH2, ErrorLog: t.h2.ErrorLog,
		ModifyResponse: func(r *http.Response) error { r.Header.Del("Keep-Alive"); return nil },
	}
	t.wg.Go(func() { _ = t.h2.Serve(t.handed) })
}

// pooled is the httputil.BufferPool of bodies.
type pooled struct{}

var pages = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

func (pooled) Get() []byte  { return *pages.Get().(*[]byte) }
func (pooled) Put(b []byte) { pages.Put(&b) }

// serveH2 serves a connection that speaks HTTP/2 to its end; read is what was
// read of it.
func (t *Target) serveH2(s *session, read []byte) {
	s.mode.Store(modeBusy)
	var c net.Conn = s.sock.tcp
	if s.sock.tls != nil {
		c = s.sock.tls
	} else if len(read) > 0 {
		c = &replay{Conn: c, read: bytes.NewReader(read)}
	}
	t.handed.give(c, s)
}

type sessionKey struct{}

// handed is a listener of connections that were accepted elsewhere.
type handed struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	ends   sync.Map // connection → *handedOver
}

type handedOver struct {
	s   *session
	end chan struct{} // closed when the server is done with it
}

func newHanded() *handed {
	return &handed{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give has the server serve the connection and returns when it is over.
func (h *handed) give(c net.Conn, s *session) {
	o := &handedOver{s, make(chan struct{})}
	h.ends.Store(c, o)
	defer h.ends.Delete(c)
	select {
	case h.conns <- c:
		<-o.end
	case <-h.closed:
	}
}

func (h *handed) sessionOf(c net.Conn) *session {
	if o, ok := h.ends.Load(c); ok {
		return o.(*handedOver).s
	}
	return nil
}

func (h *handed) state(c net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		if o, ok := h.ends.LoadAndDelete(c); ok {
			close(o.(*handedOver).end)
		}
	}
}

// Accept waits for a connection.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr is nobody's.
func (h *handed) Addr() net.Addr { return &net.TCPAddr{} }

// replay gives the bytes that were read already once more.
type replay struct {
	net.Conn
	read *bytes.Reader
}

func (r *replay) Read(b []byte) (int, error) {
	if r.read.Len() > 0 {
		return r.read.Read(b)
	}
	return r.Conn.Read(b)
}

// stream is a request of HTTP/2 on its way.
type stream struct {
	table   *table
	verdict verdict
	ep      *endpoint
	client  netip.Addr
	peer    netip.Addr
	id      string
	path    []byte
	query   []byte
	grpc    bool
	secure  bool
	trusted bool
	reason  string
}

type streamKey struct{}

func streamOf(ctx context.Context) *stream { return ctx.Value(streamKey{}).(*stream) }

// serveStream answers one request.
func (t *Target) serveStream(rw http.ResponseWriter, r *http.Request) {
	begun := t.clock.now()
	s := r.Context().Value(sessionKey{}).(*session)
	x := &stream{table: t.table.Load(), client: s.peer, peer: s.peer, secure: s.secure}
	x.trusted = x.table.isTrusted(s.peer)
	x.grpc = strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
	x.id = string(appendUUID(nil))
	if x.trusted {
		if xff := r.Header.Values("X-Forwarded-For"); len(xff) > 0 {
			x.client = clientOf(x.table, []byte(xff[len(xff)-1]), s.peer)
		}
		if id := r.Header.Get("X-Request-Id"); saneID([]byte(id)) {
			x.id = id
		}
	}
	w := &counting{ResponseWriter: rw}
	t.routeStream(s, x, w, r)
	svc := t.nobody
	if x.verdict.route != nil {
		svc = x.verdict.route.service
	}
	code := w.code
	if code == 0 {
		code = http.StatusOK
		if r.Context().Err() != nil {
			code = statusGone
		}
	}
	took := t.clock.now() - begun
	svc.stats.count(code, took)
	if t.cfg.Access.wants(code) {
		e := &entry{
			service: svc.text, host: r.Host, method: r.Method, path: r.URL.Path, id: x.id, proto: r.Proto, agent: r.UserAgent(),
			trace: r.Header.Get("Traceparent"), client: x.client, status: code, took: time.Duration(took), sent: w.sent, reason: x.reason,
		}
		if x.ep != nil {
			e.replica = x.ep.key.addr
		}
		t.cfg.Access.write(e)
	}
}

func (t *Target) routeStream(s *session, x *stream, w http.ResponseWriter, r *http.Request) {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	if query != "" || strings.HasSuffix(r.RequestURI, "?") {
		query = "?" + query
	}
	if _, ok := http1.HostName([]byte(r.Host)); !ok || !http1.ValidTarget(r.RequestURI) || !http1.ValidMethod(r.Method) {
		t.fault(w, r, x, &fault{code: http.StatusBadRequest, reason: "the method, host or path is malformed"})
		return
	}
	q := query2(x, s, r, path)
	v := x.table.decide(&q, t.cfg.Certificates)
	if v.wake {
		x.table, v = t.wake(r.Context(), &q, v)
	}
	x.verdict = v
	switch {
	case v.fault.code != 0:
		t.fault(w, r, x, &v.fault)
		return
	case v.redirect:
		http.Redirect(w, r, "https://"+string(q.host)+x.table.https+r.RequestURI, http.StatusPermanentRedirect)
		return
	case v.empty && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		sendAnswer(w, r, placeholderFor(v.route.service, x.id))
		return
	case v.empty:
		t.fault(w, r, x, &fault{code: http.StatusServiceUnavailable, reason: "nothing is deployed here yet", retry: retryAfter})
		return
	}
	newPath, newQuery, err := v.route.path([]byte(path), []byte(query))
	if err != nil {
		t.fault(w, r, x, &fault{code: http.StatusBadRequest, reason: err.Error()})
		return
	}
	if x.path, x.query = newPath, newQuery; newPath == nil {
		x.path, x.query = []byte(path), []byte(query)
	}
	t.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), streamKey{}, x)))
}

func query2(x *stream, s *session, r *http.Request, path string) query {
	return query{host: lowerHost(nil, []byte(r.Host)), path: []byte(path), secure: s.secure, tls: s.sock.tls, client: x.client}
}

// rewriteH2 makes the request towards the replica. ReverseProxy has taken
// hop-by-hop headers and the forwarding ones off.
func (t *Target) rewriteH2(p *httputil.ProxyRequest) {
	x := streamOf(p.In.Context())
	out := p.Out
	out.Host = p.In.Host
	out.URL = x.url()
	h := out.Header
	for name := range h {
		if strings.Contains(name, "_") || !x.trusted && forwardingHeader(name) || name == "Proxy" || name == "Proxy-Authorization" {
			dropLike(h, name, x.trusted)
		}
	}
	in := p.In.Header
	host, proto, chain := p.In.Host, "http", x.peer.String()
	if x.secure {
		proto = "https"
	}
	if x.trusted {
		if v := in.Get("X-Forwarded-Host"); v != "" {
			host = v
		}
		if v := in.Get("X-Forwarded-Proto"); v != "" {
			proto = v
		}
		if v := in.Values("X-Forwarded-For"); len(v) > 0 {
			chain = v[len(v)-1] + ", " + chain
		}
	}
	h.Set("X-Forwarded-For", chain)
	h.Set("X-Forwarded-Host", host)
	h.Set("X-Forwarded-Proto", proto)
	h.Set("X-Request-Id", x.id)
	if h.Get("Traceparent") == "" {
		h.Set("Traceparent", string(appendTrace(nil)))
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // so that none of ours is sent
	}
	if in.Get("Te") == "trailers" {
		h.Set("Te", "trailers")
	}
}

// url is what the replica is asked for, as exactly as net/url lets one say it.
func (x *stream) url() *url.URL {
	u := &url.URL{Scheme: "http", Host: "replica", Opaque: string(x.path), RawQuery: strings.TrimPrefix(string(x.query), "?"), ForceQuery: len(x.query) == 1}
	if x.verdict.route.pool.members[0].ep.tls != nil {
		u.Scheme = "https"
	}
	if strings.HasPrefix(u.Opaque, "//") { // would be read as a host
		u.RawPath, u.Opaque = u.Opaque, ""
		u.Path, _ = url.PathUnescape(u.RawPath)
	}
	return u
}

// forwardingHeader tells of headers in which proxies speak of clients.
func forwardingHeader(name string) bool {
	return strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" || name == "Forwarded" || name == "X-Request-Id"
}

// dropLike drops a header that is, or reads to CGI programs like, one of the
// forwarding ones, or that is for us alone.
func dropLike(h http.Header, name string, trusted bool) {
	like := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
	if forwardingHeader(like) && (like != name || !trusted) || name == "Proxy" || name == "Proxy-Authorization" {
		delete(h, name)
	}
}

// fault answers with a fault, in the way of gRPC to clients that speak it.
func (t *Target) fault(w http.ResponseWriter, r *http.Request, x *stream, f *fault) {
	x.reason = f.reason
	if x.grpc {
		h := w.Header()
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", grpcStatus(f.code))
		h.Set("Grpc-Message", url.PathEscape(f.reason))
		h.Set("X-Request-Id", x.id)
		w.WriteHeader(http.StatusOK)
		return
	}
	sendAnswer(w, r, f.answer([]byte(r.Header.Get("Accept")), x.id))
}

// grpcStatus is the code that clients would make of an HTTP status, as a
// trailers-only answer says it (gRPC, http-grpc-status-mapping).
func grpcStatus(code int) string {
	switch code {
	case http.StatusNotFound:
		return "12" // UNIMPLEMENTED
	case http.StatusForbidden:
		return "7" // PERMISSION_DENIED
	case http.StatusGatewayTimeout:
		return "4" // DEADLINE_EXCEEDED
	case http.StatusBadRequest:
		return "13" // INTERNAL
	}
	return "14" // UNAVAILABLE
}

func sendAnswer(w http.ResponseWriter, r *http.Request, a answer) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Length", fmt.Sprint(len(a.body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Request-Id", a.id)
	if a.retry > 0 {
		h.Set("Retry-After", fmt.Sprint(a.retry))
	}
	w.WriteHeader(a.code)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body)
	}
}

// failH2 answers for a replica that did not.
func (t *Target) failH2(w http.ResponseWriter, r *http.Request, err error) {
	x := streamOf(r.Context())
	if r.Context().Err() != nil {
		w.(*counting).code = statusGone
		return
	}
	f := fault{code: http.StatusBadGateway, reason: err.Error()}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() && !errors.As(err, new(*dialError)) {
		f = fault{code: http.StatusGatewayTimeout, reason: fmt.Sprintf("the replica did not answer within %s", t.cfg.Limits.Answer)}
	}
	t.fault(w, r, x, &f)
}

// counting notes what is answered.
type counting struct {
	http.ResponseWriter
	code int
	sent int64
}

func (w *counting) WriteHeader(code int) {
	if code >= 200 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *counting) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.sent += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w *counting) Unwrap() http.ResponseWriter { return w.ResponseWriter }

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
