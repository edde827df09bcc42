// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/ingress"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

const hostName = "shop.example.com"

// play is the job of a process that this program started.
func play(role string) error {
	switch role {
	case "replica":
		return playReplica()
	case "client":
		var o order
		if err := json.Unmarshal([]byte(os.Getenv("BENCH_ORDER")), &o); err != nil {
			return err
		}
		r, err := o.run()
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	case "fairlead":
		return playFairlead()
	}
	return fmt.Errorf("unknown role %q", role)
}

// playFairlead serves one service until the process is killed.
func playFairlead() error {
	cert, err := tls.LoadX509KeyPair(os.Getenv("BENCH_CERT"), os.Getenv("BENCH_KEY"))
	if err != nil {
		return err
	}
	replica := netip.MustParseAddrPort(replicaAddr)
	s := &model.State{Generation: 1}
	s.Settings.Listen.HTTP, s.Settings.Listen.HTTPS = os.Getenv("BENCH_ADDR"), os.Getenv("BENCH_TLS_ADDR")
	s.Services = []*model.Service{{
		Name:     model.ServiceName{Project: "bench", User: "main"},
		Ports:    []model.Port{{Service: 80, Container: replica.Port(), Protocol: model.TCP}},
		Backends: []model.Backend{{Addr4: replica.Addr(), Weight: 1}},
		HTTP:     []model.HTTPHost{{Host: hostName, TLS: true, Paths: []model.HTTPPath{{Path: "/", ServicePort: 80}}}},
	}}
	if err := ingress.New(ingress.Config{Certificates: fixed{&cert}}).Apply(context.Background(), s); err != nil {
		return err
	}
	select {}
}

// fixed is one certificate for every name.
type fixed struct{ c *tls.Certificate }

func (f fixed) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.c, nil }
func (fixed) Holds(string) bool                                               { return true }
func (fixed) HTTPChallenge(http.ResponseWriter, *http.Request) bool           { return false }

// certs are the files of a self-signed certificate.
type certs struct{ cert, key, both string }

func newCerts(dir string) (certs, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certs{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{hostName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return certs{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certs{}, err
	}
	c := certs{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem")}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	for path, b := range map[string][]byte{c.cert: certPEM, c.key: keyPEM, c.both: append(certPEM, keyPEM...)} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			return c, err
		}
	}
	return c, nil
}
