// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// ACMETLS1 is the application protocol of tls-alpn-01 (RFC 8737). A front that
// negotiated it closes the connection after the handshake.
const ACMETLS1 = "acme-tls/1"

// Holds tells whether there is a certificate to serve for a name, so that
// clients may be sent to TLS (row A15). One that has ended counts: to take TLS
// away from a site at that moment would be worse than a warning. It never waits.
//
// A front that reads the ClientHello itself answers a name that is not held
// with alert 112, unrecognized_name (RFC 6066 section 3), but not the hello of a
// challenge, which offers ACMETLS1 alone: that comes while there is none yet.
// One that leaves it to crypto/tls with TLSConfig need not ask: there the alert
// is sent by itself.
func (t *Target) Holds(host string) bool {
	h, ok := t.holding(host)
	return ok && h.leaf() != nil
}

// Loaded waits until every certificate that is stored for a name of the state is
// served, or until ctx ends.
func (t *Target) Loaded(ctx context.Context) error {
	for _, k := range t.serving.Load().keepers {
		select {
		case <-k.looked:
		case <-k.ctx.Done(): // withdrawn
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// holding is where the certificate of a name is kept: its own entry, or that
// of the wildcard that the state has for it. A name that merely lies beside
// those of a shared wildcard is nobody's.
func (t *Target) holding(host string) (holding, bool) {
	now, host := t.serving.Load(), canonical(host)
	if h, ok := now.hosts[host]; ok {
		return h, true
	}
	_, parent, _ := strings.Cut(host, ".")
	h, ok := now.hosts["*."+parent]
	return h, ok
}

// Covering is a certificate that is good for a name, whether or not a service
// has it: its own, or the wildcard beside it. nil: none is. It is for telling a
// client, in words and under TLS, that nobody has the name.
func (t *Target) Covering(host string) *tls.Certificate {
	if h, ok := t.holding(host); ok {
		if c := h.leaf(); c != nil {
			return &c.tls
		}
	}
	_, parent, _ := strings.Cut(canonical(host), ".")
	if k := t.serving.Load().keepers["*."+parent]; k != nil {
		if c := k.cert.Load(); c != nil {
			return &c.tls
		}
	}
	return nil
}

// canonical is the name as the state has it; it allocates nothing for one that
// is so already.
func canonical(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// GetCertificate is the certificate for the server name of the hello, or the
// answer to the authority's challenge. A name that is not held, or whose
// certificate is not there yet, is an error, for which crypto/tls sends
// internal_error (alert 80); the configuration of TLSConfig sends
// unrecognized_name. Safe for concurrent use; no lock, no I/O but for challenges.
func (t *Target) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	h, ok := t.holding(hello.ServerName)
	if !ok {
		return nil, fmt.Errorf("no certificate for server name %q: no service has it with TLS", hello.ServerName)
	}
	if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == ACMETLS1 {
		return h.keeper.authority.web.magic.GetCertificate(hello)
	}
	c := h.leaf()
	if c == nil {
		return nil, fmt.Errorf("no certificate for server name %q yet", hello.ServerName)
	}
	return &c.tls, nil
}

// TLSConfig is a server's configuration with these certificates, for the front
// to put its protocols before ACMETLS1 in NextProtos. Session tickets are on;
// their keys belong to the configuration, so a front makes one and keeps it.
// Key exchanges are those of crypto/tls: X25519, with ML-KEM where the client
// offers it. A name without a certificate is answered with unrecognized_name.
func (t *Target) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{ACMETLS1},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			c, err := t.GetCertificate(hello)
			if err != nil {
				// Neither certificate nor error: the one case in which
				// crypto/tls sends unrecognized_name (Config.getCertificate).
				return nil, nil
			}
			return c, nil
		},
	}
}

// challengePath is RFC 8555 section 8.3.
const challengePath = "/.well-known/acme-challenge/"

// HTTPChallenge answers the authority's http-01 challenge, if the request is
// one for a name that is held and an order that is under way here, or at
// another agent over the same storage; then it is true and the answer written.
// Fronts ask before any route and redirect. Other requests, also of that path,
// are left to the routes: a backend may have certificates of its own.
func (t *Target) HTTPChallenge(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, challengePath) {
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	h, ok := t.holding(host)
	return ok && h.keeper.authority.issuer.HandleHTTPChallenge(w, r)
}
