// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"net/http"
	"net/url"
)

// challengePath is where ACME servers look (RFC 8555, 8.3). It comes before
// any route and any redirect.
var challengePath = []byte("/.well-known/acme-challenge/")

// challenge answers an http-01 challenge that the issuer knows.
func (s *session) challenge() (answer, bool) {
	certs := s.t.cfg.Certificates
	if certs == nil || s.secure {
		return answer{}, false
	}
	r := &http.Request{
		Method: string(s.req.Method), Host: string(s.req.Host), URL: &url.URL{Path: string(s.req.Path)}, Header: http.Header{},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RemoteAddr: s.peer.String() + ":0", RequestURI: string(s.req.Path),
	}
	w := &recorder{header: http.Header{}}
	if !certs.HTTPChallenge(w, r.WithContext(s.t.ctx)) {
		return answer{}, false
	}
	return answer{code: max(w.code, http.StatusOK), contentType: w.header.Get("Content-Type"), body: w.body.Bytes(), id: string(s.id[:s.idN])}, true
}

// recorder keeps a small answer.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }
func (w *recorder) WriteHeader(code int)        { w.code = code }
