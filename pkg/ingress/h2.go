// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	if t.access.wants(code) {
		e := &entry{
			service: svc.text, host: r.Host, method: r.Method, path: r.URL.Path, id: x.id, proto: r.Proto, agent: r.UserAgent(),
			trace: r.Header.Get("Traceparent"), client: x.client, status: code, took: time.Duration(took), sent: w.sent, reason: x.reason,
		}
		if x.ep != nil {
			e.replica = x.ep.key.addr
		}
		t.access.write(e)
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
		q.person = r.Method == http.MethodGet && !x.grpc && wantsHTML([]byte(r.Header.Get("Accept")))
		x.table, v = t.wake(r.Context(), &q, v)
	} else if v.lacks {
		t.explain(&v)
	}
	x.verdict = v
	switch {
	case v.fault.code != 0:
		t.fault(w, r, x, &v.fault)
		return
	case v.redirect:
		http.Redirect(w, r, "https://"+string(q.host)+x.table.https+r.RequestURI, http.StatusPermanentRedirect)
		return
	case v.keys:
		sendAnswer(w, r, t.keysFor(r.Method, []byte(r.Header.Get("Accept")), x.id))
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
	v.route.service.active.Add(1)
	defer v.route.service.active.Add(-1)
	s.enter(v.route.service)
	defer s.leave()
	t.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), streamKey{}, x)))
}

func query2(x *stream, s *session, r *http.Request, path string) query {
	return query{host: lowerHost(nil, []byte(r.Host)), path: []byte(path), secure: s.secure, tls: s.sock.tls, client: x.client}
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
	h.Set("Cache-Control", cmp.Or(a.cache, "no-store"))
	h.Set("X-Request-Id", a.id)
	for line := range strings.Lines(a.extra) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name != "Connection" && name != "Upgrade" { // not of HTTP/2 (RFC 9113, 8.2.2)
			h.Set(name, value)
		}
	}
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
	f := fault{code: http.StatusBadGateway, reason: t.reason(err)}
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
