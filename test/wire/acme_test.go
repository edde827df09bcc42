// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/autocert/pebbletest"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/tcproute"
)

// A terminated name gets its certificate from an ACME authority, and until
// then says that there is none.
func TestTerminateWithACME(t *testing.T) {
	redis(t)
	const host = "acme.db.example.test"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	ca := pebbletest.New(t, pebbletest.Config{HTTPPort: l.Addr().(*net.TCPAddr).Port})
	keeper, err := autocert.New(autocert.Config{StateDir: t.TempDir()})
	must(t, err)
	defer keeper.Close()
	r, err := tcproute.New(tcproute.Config{Certificates: keeper})
	must(t, err)
	defer r.Close()

	s := &model.State{Generation: 1}
	s.Settings.ACME = model.ACME{Directory: ca.Directory, CAFile: ca.CAFile}
	s.Settings.Listen.Redis = frontIP + ":0"
	svc := servedAt(termHost) // the same replica
	svc.TCPNames = []model.TCPName{{Kind: "REDIS", Host: host, TLS: "terminate"}}
	s.Services = []*model.Service{&svc}
	must(t, r.Apply(t.Context(), s))
	ping := func() (string, error) {
		c, err := net.Dial("tcp", r.Addr(tcproute.Redis).String())
		if err != nil {
			return "", err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		tc := tls.Client(c, &tls.Config{ServerName: host, RootCAs: ca.Roots()})
		if _, err := io.WriteString(tc, "PING\r\n"); err != nil {
			return "", err
		}
		b := make([]byte, 7)
		_, err = io.ReadFull(tc, b)
		return string(b), err
	}
	if _, err := ping(); err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("without a certificate: %v, want alert 80", err)
	}
	if n := r.Names(); len(n) != 1 || !strings.HasPrefix(n[0].Problem, "no certificate yet") {
		t.Errorf("names %+v", n)
	}

	srv := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !keeper.HTTPChallenge(w, r) {
			http.Error(w, "no challenge", http.StatusTeapot)
		}
	})}
	defer srv.Close()
	go func() { _ = srv.Serve(l) }()
	must(t, keeper.Apply(t.Context(), s))
	for deadline := time.Now().Add(patience); !keeper.Holds(host); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no certificate within", patience)
		}
	}
	if got, err := ping(); err != nil || got != "+PONG\r\n" {
		t.Errorf("%q, %v", got, err)
	}
	if n := r.Names(); len(n) != 1 || n[0].Problem != "" || n[0].Connections != 1 {
		t.Errorf("names %+v", n)
	}
}
