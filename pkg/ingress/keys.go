// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"fmt"
	"net/http"
)

// keysPath is where the platform's host has the public keys of access tokens
// (RFC 7517; the path is a convention). It comes before the routes of a service
// that has the same host, and before a redirect: every verifier shall get them.
const keysPath = "/.well-known/jwks.json"

// keysFor is the answer there.
func (t *Target) keysFor(method string, accept []byte, id string) answer {
	if method != http.MethodGet && method != http.MethodHead {
		f := fault{code: http.StatusMethodNotAllowed, reason: "the public keys can be read only", extra: "Allow: GET, HEAD\r\n"}
		return f.answer(accept, id)
	}
	set, maxAge := t.cfg.Keys()
	return answer{
		code: http.StatusOK, contentType: "application/jwk-set+json", body: set, id: id,
		cache: fmt.Sprintf("public, max-age=%d", int(maxAge.Seconds())), extra: "Access-Control-Allow-Origin: *\r\n",
	}
}
