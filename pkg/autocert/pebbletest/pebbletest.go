// SPDX-License-Identifier: Apache-2.0

// Package pebbletest runs a real ACME authority for tests: Let's Encrypt's
// Pebble in a process of its own, on loopback, with a name server that answers
// every name with 127.0.0.1. Pebble comes from tools/go.mod, so that the
// program's own dependencies stay without it.
package pebbletest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Config of an authority.
type Config struct {
	HTTPPort int           // where http-01 is asked; 0: a port nobody serves
	TLSPort  int           // where tls-alpn-01 is asked; 0: a port nobody serves
	Validity time.Duration // of certificates; default 90 days
	Stopped  bool          // it is not started: Start it later
}

// CA is an authority. It ends with the test.
type CA struct {
	Directory string // its URL
	CAFile    string // signs its own server certificate

	t          testing.TB
	dir        string
	acme, mgmt int
	program    string
	args       []string
	cmd        *exec.Cmd
	done       chan struct{}
	log        log
}

// New makes an authority and waits until it answers.
func New(t testing.TB, cfg Config) *CA {
	t.Helper()
	root := sourceRoot()
	ca := &CA{t: t, dir: t.TempDir(), program: tool(t, root, "pebble"), acme: freePort(t), mgmt: freePort(t)}
	module := run(t, root, "go", "list", "-modfile=tools/go.mod", "-m", "-f", "{{.Dir}}", "github.com/letsencrypt/pebble/v2")
	certs := filepath.Join(module, "test", "certs")
	if cfg.HTTPPort == 0 {
		cfg.HTTPPort = freePort(t)
	}
	if cfg.TLSPort == 0 {
		cfg.TLSPort = freePort(t)
	}
	if cfg.Validity == 0 {
		cfg.Validity = 90 * 24 * time.Hour
	}
	ca.Directory = fmt.Sprintf("https://127.0.0.1:%d/dir", ca.acme)
	ca.CAFile = filepath.Join(certs, "pebble.minica.pem")
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           fmt.Sprintf("127.0.0.1:%d", ca.acme),
		"managementListenAddress": fmt.Sprintf("127.0.0.1:%d", ca.mgmt),
		"certificate":             filepath.Join(certs, "localhost", "cert.pem"),
		"privateKey":              filepath.Join(certs, "localhost", "key.pem"),
		"httpPort":                cfg.HTTPPort, "tlsPort": cfg.TLSPort, "keyAlgorithm": "ecdsa",
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{
			"description": "default", "validityPeriod": int(cfg.Validity.Seconds()),
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(ca.dir, "pebble.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		t.Fatal(err)
	}
	ca.args = []string{"-config", path, "-dnsserver", nameServer(t)}
	if !cfg.Stopped {
		ca.Start()
	}
	t.Cleanup(func() {
		ca.Stop()
		if t.Failed() {
			t.Logf("pebble said:\n%s", ca.log.String())
		}
	})
	return ca
}

// Start starts an authority that does not run, without what it knew before.
func (ca *CA) Start() {
	ca.t.Helper()
	cmd := exec.Command(ca.program, ca.args...)
	// Challenges are asked at once, and no authorization is used twice.
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	cmd.Stdout, cmd.Stderr = &ca.log, &ca.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test panics
	begun, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // Pdeathsig is about this thread
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		begun <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-begun; err != nil {
		ca.t.Fatalf("start pebble: %v", err)
	}
	ca.cmd, ca.done = cmd, done
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := ca.get(ca.Directory); err == nil {
			return
		}
		select {
		case <-done:
			ca.t.Fatalf("pebble ended:\n%s", ca.log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			ca.t.Fatalf("pebble does not answer:\n%s", ca.log.String())
		}
	}
}

// Stop ends it; connections are reset.
func (ca *CA) Stop() {
	if ca.cmd != nil {
		_ = ca.cmd.Process.Kill()
		<-ca.done
		ca.cmd = nil
	}
}

// Roots is the root that its certificates lead to.
func (ca *CA) Roots() *x509.CertPool {
	ca.t.Helper()
	pem, err := ca.get(fmt.Sprintf("https://127.0.0.1:%d/roots/0", ca.mgmt))
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		ca.t.Fatalf("read pebble's root: %v", err)
	}
	return pool
}

// Orders counts the orders that were made since the test began.
func (ca *CA) Orders() int { return strings.Count(ca.log.String(), "orders in the db") }

// Issued counts the certificates that were issued since the test began.
func (ca *CA) Issued() int { return strings.Count(ca.log.String(), "Issued certificate serial") }

// Log is what it has said so far.
func (ca *CA) Log() string { return ca.log.String() }

// Client trusts the authority's own server certificate.
func (ca *CA) Client() *http.Client {
	pem, err := os.ReadFile(ca.CAFile)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		ca.t.Fatalf("read pebble's own root: %v", err)
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
	}}
}

// Advise has it say, of one certificate, that it is to be renewed in a window
// (RFC 9773), from the next question on.
func (ca *CA) Advise(leaf *x509.Certificate, start, end time.Time) {
	ca.t.Helper()
	window, err := json.Marshal(map[string]any{"suggestedWindow": map[string]time.Time{"start": start.UTC(), "end": end.UTC()}})
	if err != nil {
		ca.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{
		"Certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})), "ARIResponse": string(window),
	})
	if err != nil {
		ca.t.Fatal(err)
	}
	resp, err := ca.Client().Post(fmt.Sprintf("https://127.0.0.1:%d/set-renewal-info/", ca.mgmt), "application/json", bytes.NewReader(body))
	if err != nil {
		ca.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		ca.t.Fatalf("set renewal information: %s: %s", resp.Status, text)
	}
}

func (ca *CA) get(url string) ([]byte, error) {
	resp, err := ca.Client().Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// nameServer answers A of every name with 127.0.0.1 and everything else with
// nothing.
func nameServer(t testing.TB) string {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET},
				A:   net.IPv4(127, 0, 0, 1),
			}}
		}
		_ = w.WriteMsg(m)
	}
	udp := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(answer)}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	tcp := &dns.Server{Listener: l, Handler: dns.HandlerFunc(answer)}
	var wg sync.WaitGroup
	for _, s := range []*dns.Server{udp, tcp} {
		begun := make(chan struct{})
		s.NotifyStartedFunc = func() { close(begun) }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-begun
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = udp.ShutdownContext(ctx)
		_ = tcp.ShutdownContext(ctx)
		wg.Wait()
	})
	return address
}

// freePort is one that nobody listens on, below those the kernel gives to
// connections: no connection of another test takes it before pebble does.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15000+rand.N(17000)))
		if err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no free port on 127.0.0.1")
	return 0
}

var building sync.Mutex

// tool builds a program of tools/go.mod, once, in Go's cache.
func tool(t testing.TB, root, name string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	return run(t, root, "go", "tool", "-modfile=tools/go.mod", "-n", name)
}

func run(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &errs)
	}
	return strings.TrimSpace(out.String())
}

// sourceRoot is the top of the module's tree.
func sourceRoot() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to the log.
func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is all of it.
func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
