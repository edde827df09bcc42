// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority is a CA in memory that is Certificates, too.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate

	mu    sync.Mutex
	held  map[string]*tls.Certificate
	token string // of an http-01 challenge
}

func newAuthority(t *testing.T, hosts ...string) *authority {
	t.Helper()
	a := &authority{t: t, held: map[string]*tls.Certificate{}}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		a.issue(h)
	}
	return a
}

// leaf signs a certificate for the names.
func (a *authority) leaf(names ...string) *tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// issue has the front hold a certificate for the names.
func (a *authority) issue(names ...string) {
	c := a.leaf(names...)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range names {
		a.held[n] = c
	}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// file writes the CA's certificate.
func (a *authority) file() string {
	path := filepath.Join(a.t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

func (a *authority) find(host string) *tls.Certificate {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.held[host]; c != nil {
		return c
	}
	_, parent, _ := strings.Cut(host, ".")
	return a.held["*."+parent]
}

// GetCertificate is that of Certificates.
func (a *authority) GetCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return a.find(strings.ToLower(h.ServerName)), nil
}

// Holds is that of Certificates.
func (a *authority) Holds(host string) bool { return a.find(host) != nil }

// HTTPChallenge is that of Certificates.
func (a *authority) HTTPChallenge(w http.ResponseWriter, r *http.Request) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token == "" || r.URL.Path != "/.well-known/acme-challenge/"+a.token {
		return false
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, a.token+".thumbprint")
	return true
}
