// SPDX-License-Identifier: Apache-2.0

// Package bindtest runs a real name server for tests: BIND's named, on
// loopback, with one zone that takes dynamic updates.
package bindtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	mrand "math/rand/v2"
	"net"
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

// Config of a server.
type Config struct {
	Zone string // such as "fairlead.example"
	// Updates is the zone's update statement; default: whoever has the key.
	Updates string
	// Of is the primary of a secondary, which looks there when Notify tells it
	// to. nil: it is a primary.
	Of *Server

	// In runs a function where the server is to be, such as in a network
	// namespace. nil: here.
	In func(func() error) error
	// Addr is where it listens. Default: a free port of loopback.
	Addr netip.AddrPort
	// Host is the IPv4 address of every name of the zone. Default 127.0.0.1.
	Host netip.Addr
}

// Server is a name server. It ends with the test.
type Server struct {
	Addr    netip.AddrPort
	KeyFile string // its key, as tsig-keygen writes it
	KeyName string
	Secret  string // base64

	t    testing.TB
	in   func(func() error) error
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
	log  syncBuffer
}

// New makes a server and waits until it answers for its zone.
func New(t testing.TB, cfg Config) *Server {
	t.Helper()
	if _, err := exec.LookPath("named"); err != nil {
		t.Fatalf("these tests need BIND's name server, which scripts/setup.sh test installs: %v", err)
	}
	if cfg.In == nil {
		cfg.In = func(f func() error) error { return f() }
	}
	if !cfg.Addr.IsValid() {
		cfg.Addr = freePort(t)
	}
	if !cfg.Host.IsValid() {
		cfg.Host = netip.MustParseAddr("127.0.0.1")
	}
	s := &Server{t: t, in: cfg.In, dir: t.TempDir(), KeyName: "updater.fairlead.", Addr: cfg.Addr}
	if cfg.Of != nil {
		s.KeyName, s.Secret = cfg.Of.KeyName, cfg.Of.Secret
	} else {
		secret := make([]byte, 32)
		_, _ = rand.Read(secret)
		s.Secret = base64.StdEncoding.EncodeToString(secret)
	}
	s.KeyFile = filepath.Join(s.dir, "update.key")
	s.WriteKey(s.KeyFile, s.KeyName, s.Secret)
	if cfg.Updates == "" {
		cfg.Updates = fmt.Sprintf("allow-update { key %q; };", s.KeyName)
	}
	zone := fmt.Sprintf("type primary; file %q; %s allow-transfer { key %q; };", filepath.Join(s.dir, "zone.db"), cfg.Updates, s.KeyName)
	if cfg.Of != nil {
		zone = fmt.Sprintf("type secondary; file %q; primaries port %d { %s key %q; }; min-refresh-time 3600; allow-notify { %[3]s; };",
			filepath.Join(s.dir, "copy.db"), cfg.Of.Addr.Port(), cfg.Of.Addr.Addr(), s.KeyName)
	}
	s.write("named.conf", fmt.Sprintf(`include %q;
options {
	directory %q; pid-file none; session-keyfile none; lock-file none;
	listen-on port %d { %s; }; listen-on-v6 { none; };
	recursion no; notify no; dnssec-validation no; empty-zones-enable no;
};
controls { };
zone %q { %s };
`, s.KeyFile, s.dir, s.Addr.Port(), s.Addr.Addr(), cfg.Zone, zone))
	s.write("zone.db", fmt.Sprintf(`$TTL 60
@ SOA ns1.%[1]s. admin.%[1]s. 1 3600 600 86400 5
@ NS ns1.%[1]s.
ns1 A %[2]s
* A %[3]s
`, cfg.Zone, s.Addr.Addr(), cfg.Host))
	s.Start()
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("named said:\n%s", s.log.String())
		}
	})
	return s
}

// WriteKey writes a key as tsig-keygen does.
func (s *Server) WriteKey(path, name, secret string) {
	s.t.Helper()
	text := fmt.Sprintf("key %q {\n\talgorithm hmac-sha256;\n\tsecret %q;\n};\n", name, secret)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Start starts a server that does not run.
func (s *Server) Start() {
	s.t.Helper()
	cmd := exec.Command("named", "-g", "-4", "-n", "1", "-c", filepath.Join(s.dir, "named.conf"))
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test panics
	begun, done := make(chan error, 2), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // one thread to the end: Pdeathsig is about it
		defer runtime.UnlockOSThread()
		begun <- s.in(func() error {
			err := cmd.Start()
			if err == nil {
				begun <- nil
				_ = cmd.Wait()
			}
			return err
		})
	}()
	if err := <-begun; err != nil {
		s.t.Fatalf("start named: %v", err)
	}
	s.cmd, s.done = cmd, done
	for deadline := time.Now().Add(60 * time.Second); ; {
		r, err := s.ask(s.zone(), dns.TypeSOA)
		if err == nil && r.Rcode == dns.RcodeSuccess && r.Authoritative {
			return
		}
		select {
		case <-done:
			s.t.Fatalf("named ended:\n%s", s.log.String())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("named does not answer:\n%s", s.log.String())
		}
	}
}

func (s *Server) zone() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "named.conf"))
	if err != nil {
		s.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "zone \"")
	name, _, _ := strings.Cut(after, `"`)
	return dns.Fqdn(name)
}

// Stop ends it.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	s.cmd = nil
}

func (s *Server) ask(name string, kind uint16) (r *dns.Msg, err error) {
	err = s.in(func() error {
		r, err = dns.ExchangeContext(context.Background(), new(dns.Msg).SetQuestion(name, kind), s.Addr.String())
		return err
	})
	return r, err
}

// Notify has a secondary look at its primary.
func (s *Server) Notify() {
	s.t.Helper()
	m := new(dns.Msg).SetNotify(s.zone())
	err := s.in(func() error {
		_, err := dns.ExchangeContext(context.Background(), m, s.Addr.String())
		return err
	})
	if err != nil {
		s.t.Fatalf("notify named: %v", err)
	}
}

// TXT is what it shows of a name.
func (s *Server) TXT(name string) []string {
	s.t.Helper()
	r, err := s.ask(dns.Fqdn(name), dns.TypeTXT)
	if err != nil {
		s.t.Fatalf("ask named for %s: %v", name, err)
	}
	var out []string
	for _, rr := range r.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			out = append(out, strings.Join(txt.Txt, ""))
		}
	}
	return out
}

// Update adds a TXT record to a zone of a server, or removes it, with the key
// of a file that WriteKey wrote.
func Update(server netip.AddrPort, keyFile, zone string, add bool, name, value string) error {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	quoted := strings.Split(string(text), `"`)
	c := &dns.Client{Net: "tcp", TsigSecret: map[string]string{quoted[1]: quoted[3]}}
	m := new(dns.Msg).SetUpdate(dns.Fqdn(zone))
	rr := []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{value}}}
	if add {
		m.Insert(rr)
	} else {
		m.Remove(rr)
	}
	m.SetTsig(quoted[1], dns.HmacSHA256, 300, time.Now().Unix())
	r, _, err := c.Exchange(m, server.String())
	if err == nil && r.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("update of %s: %s", name, dns.RcodeToString[r.Rcode])
	}
	return err
}

// freePort is one of loopback that nobody has, by UDP or TCP, below those the
// kernel gives to connections.
func freePort(t testing.TB) netip.AddrPort {
	t.Helper()
	for range 100 {
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(15000+mrand.N(17000)))
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			continue
		}
		pc, err := net.ListenPacket("udp", at.String())
		_ = l.Close()
		if err == nil {
			_ = pc.Close()
			return at
		}
	}
	t.Fatal("no free port on loopback")
	return netip.AddrPort{}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds to the buffer.
func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String is all of it.
func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
