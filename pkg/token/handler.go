// SPDX-License-Identifier: Apache-2.0

package token

import (
	"fmt"
	"net/http"
)

// Path is where verifiers find the JWK set, on the issuer's host.
const Path = "/.well-known/jwks.json"

// ServeHTTP answers with the JWK set.
func (r *Ring) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	set, maxAge := r.KeySet()
	h := w.Header()
	h.Set("Content-Type", "application/jwk-set+json")
	h.Set("Content-Length", fmt.Sprint(len(set)))
	h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(maxAge.Seconds())))
	h.Set("Access-Control-Allow-Origin", "*") // public keys
	if q.Method != http.MethodHead {
		_, _ = w.Write(set)
	}
}
