// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
)

// acmeProtocol is that of tls-alpn-01 challenges (RFC 8737).
const acmeProtocol = "acme-tls/1"

// setTLS makes the settings of the TLS listener.
func (t *Target) setTLS() {
	t.tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: t.certificate}
	t.acme = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{acmeProtocol}, GetCertificate: t.challengeCertificate}
	t.refusing = &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, GetCertificate: noCertificate}
	t.tlsConfig.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		switch {
		case len(h.SupportedProtos) == 1 && h.SupportedProtos[0] == acmeProtocol:
			return t.acme, nil
		case !t.servesTLS(h.ServerName):
			// A session of another name must not be resumed for this one.
			return t.refusing, nil
		}
		return nil, nil
	}
}

// noCertificate has crypto/tls send the alert unrecognized_name (112): that is
// what it does where there is neither an error nor a certificate.
func noCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }

// servesTLS tells whether a server name is one of ours.
func (t *Target) servesTLS(sni string) bool {
	h := t.table.Load().lookup([]byte(strings.ToLower(sni)))
	return h != nil && h.tls
}

func (t *Target) certificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if t.cfg.Certificates == nil {
		return nil, nil
	}
	c, err := t.cfg.Certificates.GetCertificate(h)
	if err != nil {
		t.cfg.Log.Debug("no certificate", "host", h.ServerName, "error", err)
		return nil, nil
	}
	return c, nil
}

// challengeCertificate answers for names that the authority asks about; whether
// they are ours is the issuer's matter.
func (t *Target) challengeCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return t.certificate(h)
}

// leafCovers tells whether a certificate is good for a host.
func leafCovers(c *tls.Certificate, host string) bool {
	leaf := c.Leaf
	if leaf == nil && len(c.Certificate) > 0 {
		leaf, _ = x509.ParseCertificate(c.Certificate[0])
	}
	return leaf != nil && (slices.Contains(leaf.DNSNames, host) || leaf.VerifyHostname(host) == nil)
}
