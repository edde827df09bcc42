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
	"net/netip"
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

	// In runs a function where the authority is to be, such as in a network
	// namespace. nil: here.
	In func(func() error) error
	// Address is where it listens; default 127.0.0.1. At another one it has a
	// server certificate of its own, signed by itself.
	Address netip.Addr
	// Resolver is the name server it asks, IP:PORT; empty: one of its own, which
	// answers every name with 127.0.0.1.
	Resolver string
}

// CA is an authority. It ends with the test.
type CA struct {
	Directory string // its URL
	CAFile    string // signs its own server certificate

	t          testing.TB
	dir        string
	acme, mgmt netip.AddrPort
	in         func(func() error) error
	program    string
	args       []string
	cmd        *exec.Cmd
	done       chan struct{}
	log        log
}

// New makes an authority and waits until it answers.
func New(t testing.TB, cfg Config) *CA {
	t.Helper()
	cfg.defaults(t)
	program, certs := installed(t)
	ca := &CA{t: t, dir: t.TempDir(), program: program, in: cfg.In}
	ca.acme, ca.mgmt = netip.AddrPortFrom(cfg.Address, freePort(t, cfg)), netip.AddrPortFrom(cfg.Address, freePort(t, cfg))
	ca.Directory = fmt.Sprintf("https://%s/dir", ca.acme)
	ca.CAFile = filepath.Join(certs, "pebble.minica.pem")
	cert, key := filepath.Join(certs, "localhost", "cert.pem"), filepath.Join(certs, "localhost", "key.pem")
	if cfg.Address != loopback {
		cert, key = selfSigned(t, ca.dir, cfg.Address)
		ca.CAFile = cert
	}
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress":           ca.acme.String(),
		"managementListenAddress": ca.mgmt.String(),
		"certificate":             cert,
		"privateKey":              key,
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
	if cfg.Resolver == "" {
		cfg.Resolver = nameServer(t, cfg)
	}
	ca.args = []string{"-config", path, "-dnsserver", cfg.Resolver}
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

var loopback = netip.MustParseAddr("127.0.0.1")

func (c *Config) defaults(t testing.TB) {
	if c.In == nil {
		c.In = func(f func() error) error { return f() }
	}
	if !c.Address.IsValid() {
		c.Address = loopback
	}
	for _, port := range []*int{&c.HTTPPort, &c.TLSPort} {
		if *port == 0 {
			*port = int(freePort(t, *c))
		}
	}
	if c.Validity == 0 {
		c.Validity = 90 * 24 * time.Hour
	}
}

// Start starts an authority that does not run, without what it knew before.
func (ca *CA) Start() {
	ca.t.Helper()
	cmd := exec.Command(ca.program, ca.args...)
	// Challenges are asked at once, and no authorization is used twice.
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0")
	cmd.Stdout, cmd.Stderr = &ca.log, &ca.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test panics
	begun, done := make(chan error, 2), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := ca.in(func() error { // one thread to the end: Pdeathsig is about it
			if err := cmd.Start(); err != nil {
				return err
			}
			begun <- nil
			_ = cmd.Wait()
			return nil
		})
		begun <- err
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

// Pause has it answer nothing until Resume; what is sent to it waits.
func (ca *CA) Pause() { ca.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (ca *CA) Resume() { ca.signal(syscall.SIGCONT) }

func (ca *CA) signal(s syscall.Signal) {
	ca.t.Helper()
	if err := ca.cmd.Process.Signal(s); err != nil {
		ca.t.Fatalf("signal pebble: %v", err)
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

// RootPEM is the root that its certificates lead to.
func (ca *CA) RootPEM() []byte {
	ca.t.Helper()
	pem, err := ca.get(fmt.Sprintf("https://%s/roots/0", ca.mgmt))
	if err != nil {
		ca.t.Fatalf("read pebble's root: %v", err)
	}
	return pem
}

// Roots is the root that its certificates lead to.
func (ca *CA) Roots() *x509.CertPool {
	ca.t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca.RootPEM()) {
		ca.t.Fatal("pebble's root is no certificate")
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
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = ca.in(func() (err error) {
				c, err = (&net.Dialer{}).DialContext(ctx, network, address)
				return err
			})
			return c, err
		},
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
	resp, err := ca.Client().Post(fmt.Sprintf("https://%s/set-renewal-info/", ca.mgmt), "application/json", bytes.NewReader(body))
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
func nameServer(t testing.TB, cfg Config) string {
	t.Helper()
	address := netip.AddrPortFrom(cfg.Address, freePort(t, cfg)).String()
	var pc net.PacketConn
	var l net.Listener
	err := cfg.In(func() (err error) {
		if pc, err = net.ListenPacket("udp", address); err != nil {
			return err
		}
		l, err = net.Listen("tcp", address)
		return err
	})
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
func freePort(t testing.TB, cfg Config) (port uint16) {
	t.Helper()
	for range 100 {
		err := cfg.In(func() error {
			l, err := net.Listen("tcp", netip.AddrPortFrom(cfg.Address, uint16(15000+rand.N(17000))).String())
			if err == nil {
				port = l.Addr().(*net.TCPAddr).AddrPort().Port()
				_ = l.Close()
			}
			return err
		})
		if err == nil {
			return port
		}
	}
	t.Fatalf("no free port on %s", cfg.Address)
	return 0
}

// installed is Pebble and the directory of its own certificates: those of
// FAIRLEAD_PEBBLE where Go and the sources are not (test/vm's guests), else
// Pebble is built.
func installed(t testing.TB) (program, certs string) {
	t.Helper()
	if dir := os.Getenv("FAIRLEAD_PEBBLE"); dir != "" {
		return filepath.Join(dir, "pebble"), filepath.Join(dir, "certs")
	}
	root := sourceRoot()
	program = tool(t, root, "pebble")
	// Only now: of a module that was not downloaded yet Go tells no directory.
	module := run(t, root, "go", "list", "-modfile=tools/go.mod", "-m", "-f", "{{.Dir}}", "github.com/letsencrypt/pebble/v2")
	return program, filepath.Join(module, "test", "certs")
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
