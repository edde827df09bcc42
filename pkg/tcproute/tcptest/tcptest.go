// SPDX-License-Identifier: Apache-2.0

// Package tcptest is a certificate authority for tests: of package tcproute, of
// the wire tests with real databases, and of benchmarks.
package tcptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Authority is a certificate authority in memory. Its certificates are valid
// for a day.
type Authority struct {
	Pool *x509.CertPool
	PEM  []byte // its own certificate

	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// NewAuthority makes an authority with a new key.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &Authority{key: key, Pool: x509.NewCertPool(), serial: 1}
	tpl := a.template()
	tpl.Subject.CommonName, tpl.IsCA, tpl.KeyUsage = "fairlead test CA", true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.Pool.AddCert(a.cert)
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a, nil
}

func (a *Authority) template() *x509.Certificate {
	a.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: "fairlead test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
	}
}

// Issue makes a server certificate for the hosts.
func (a *Authority) Issue(hosts ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	tpl := a.template()
	tpl.DNSNames, tpl.ExtKeyUsage = hosts, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, tpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Write writes ca.pem and, for the hosts, server.pem and server.key into a
// directory, with the given owner.
func (a *Authority) Write(dir string, uid, gid int, hosts ...string) error {
	cert, err := a.Issue(hosts...)
	if err != nil {
		return err
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"ca.pem":     a.PEM,
		"server.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		"server.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return err
		}
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// Held is tcproute.Certificates with what was put into it.
type Held struct {
	mu    sync.Mutex
	certs map[string]*tls.Certificate
}

// Put holds a certificate for a host.
func (h *Held) Put(host string, c tls.Certificate) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.certs == nil {
		h.certs = map[string]*tls.Certificate{}
	}
	h.certs[host] = &c
}

// Holds tells whether Put was called for the host.
func (h *Held) Holds(host string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.certs[host] != nil
}

// Covering is what was Put for the host, or for the wildcard beside it.
func (h *Held) Covering(host string) *tls.Certificate {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.certs[host]; c != nil {
		return c
	}
	_, parent, _ := strings.Cut(host, ".")
	return h.certs["*."+parent]
}

// GetCertificate finds the certificate of the name asked for.
func (h *Held) GetCertificate(i *tls.ClientHelloInfo) (*tls.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.certs[strings.ToLower(i.ServerName)]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no certificate for %q", i.ServerName)
}
