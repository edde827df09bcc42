// SPDX-License-Identifier: Apache-2.0

// Package wire_test proves routing by server name with real peers: PostgreSQL,
// Redis and their clients from Debian's packages, the field's Go drivers, and
// openssl. The router runs in the test's process, everything else in processes
// of its own, on loopback addresses. It needs root, to run PostgreSQL as
// another user.
package wire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/tcproute"
	"github.com/fairlead-lb/fairlead/pkg/tcproute/tcptest"
)

// patience bounds every wait and every command.
const patience = 60 * time.Second

// The addresses: the router's front, and the replicas.
const (
	frontIP   = "127.0.0.1"
	replicaIP = "127.0.0.2"
)

// Names of the services, one for each way.
const (
	passHost = "pass.db.example.test" // passthrough to TLS
	termHost = "term.db.example.test" // terminate, plain replica
	tlsHost  = "tls.db.example.test"  // terminate, TLS replica, verified
	noHost   = "none.db.example.test" // nobody's
	goneHost = "gone.db.example.test" // nobody's, with a certificate
)

// replicaHost is the name in the replica's certificate for tlsHost.
const replicaHost = "replica.example.test"

var (
	dir       string // of the run
	authority *tcptest.Authority
	router    *tcproute.Router
	certs     = &tcptest.Held{}

	driversOnce sync.Once
	driversErr  error
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "wire:", err)
		return 1
	}
	if os.Geteuid() != 0 {
		return fail(errors.New("starts PostgreSQL as user postgres: run it as root (make test-wire)"))
	}
	for _, tool := range []string{"openssl", "redis-server", "redis-cli", "redis-benchmark", "psql"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fail(fmt.Errorf("%w: scripts/setup.sh test installs it", err))
		}
	}
	var err error
	// Not below TMPDIR: user postgres must be able to enter.
	if dir, err = os.MkdirTemp("/var/tmp", "fairlead-wire-"); err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return fail(err)
	}
	if authority, err = tcptest.NewAuthority(); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(caFile(), authority.PEM, 0o644); err != nil {
		return fail(err)
	}
	for _, host := range []string{termHost, tlsHost, goneHost} {
		c, err := authority.Issue(host)
		if err != nil {
			return fail(err)
		}
		certs.Put(host, c)
	}
	building, stopBuilding := context.WithCancel(context.Background())
	go func() { _ = buildDrivers(building) }() // while servers start
	defer func() {
		stopBuilding()
		_ = buildDrivers(building) // nothing writes into dir after this
	}()
	if router, err = tcproute.New(tcproute.Config{Certificates: certs}); err != nil {
		return fail(err)
	}
	defer router.Close()
	defer stopServers()
	return m.Run()
}

func caFile() string { return filepath.Join(dir, "ca.pem") }

// buildDrivers builds test/wire/clients, once.
func buildDrivers(ctx context.Context) error {
	driversOnce.Do(func() {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "clients"), ".")
		cmd.Dir = "clients"
		if out, err := cmd.CombinedOutput(); err != nil {
			driversErr = fmt.Errorf("build clients: %w\n%s", err, out)
		}
	})
	return driversErr
}

// drivers runs a Go driver against the router.
func drivers(t *testing.T, kind tcproute.Kind, driver, host, option string) (string, error) {
	t.Helper()
	must(t, buildDrivers(t.Context()))
	return output(t, exec.Command(filepath.Join(dir, "clients"), driver, front(kind), host, caFile(), option))
}

// front is where the router listens.
func front(k tcproute.Kind) string { return router.Addr(k).String() }

func frontPort(k tcproute.Kind) string {
	_, port, _ := net.SplitHostPort(front(k))
	return port
}

// output runs a command with a limit.
func output(t *testing.T, cmd *exec.Cmd) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	limited := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
	limited.Env, limited.Stdin, limited.Dir = append(cmd.Environ(), "LC_ALL=C"), cmd.Stdin, dir
	out, err := limited.CombinedOutput()
	return string(out), err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// has checks an output for a text.
func has(t *testing.T, what, out, want string) {
	t.Helper()
	if !strings.Contains(out, want) {
		t.Errorf("%s: want %q in\n%s", what, want, out)
	}
}

// services are three of a kind, at replicas with TLS and plain ones.
func services(k tcproute.Kind, overTLS, plain netip.AddrPort) []*model.Service {
	name := model.TCPName{Kind: string(k)}
	make1 := func(project, host, mode string, to netip.AddrPort) *model.Service {
		n := name
		n.Host, n.TLS = host, mode
		return &model.Service{
			Name:     model.ServiceName{Project: project, User: k.Label()},
			Ports:    []model.Port{{Service: n.ServicePort(), Container: to.Port(), Protocol: model.TCP}},
			Backends: []model.Backend{{Addr4: to.Addr(), Weight: 1}}, TCPNames: []model.TCPName{n}, Drain: time.Second,
		}
	}
	verified := make1("tls", tlsHost, "terminate", overTLS)
	verified.TCPNames[0].BackendTLS = model.BackendTLS{Mode: "verify", ServerName: replicaHost, CAFile: caFile()}
	return []*model.Service{make1("pass", passHost, "passthrough", overTLS), make1("term", termHost, "terminate", plain), verified}
}

var (
	stateMu sync.Mutex
	served  []*model.Service
)

// serve has the router serve more services.
func serve(t *testing.T, more ...*model.Service) {
	t.Helper()
	stateMu.Lock()
	defer stateMu.Unlock()
	served = append(served, more...)
	any4 := frontIP + ":0"
	s := &model.State{Generation: uint64(len(served)), Services: served}
	s.Settings.Listen = model.Listen{Postgres: any4, Mongo: any4, Redis: any4}
	must(t, router.Apply(t.Context(), s))
	if p := router.Problems(); len(p) > 0 {
		t.Fatal(p)
	}
}

// servedAt is the Redis service of a host.
func servedAt(host string) model.Service {
	stateMu.Lock()
	defer stateMu.Unlock()
	for _, s := range served {
		if s.TCPNames[0].Host == host && s.TCPNames[0].Kind == string(tcproute.Redis) {
			return *s
		}
	}
	return model.Service{}
}

// freePort is a port of the replicas' address that nobody has.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", replicaIP+":0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func replica(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(replicaIP), port)
}

var running []*exec.Cmd

// start runs a server until the end of the tests.
func start(t *testing.T, cmd *exec.Cmd) *bytes.Buffer {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT // if the test is killed
	must(t, cmd.Start())
	running = append(running, cmd)
	return &said
}

// stopServers ends what start began.
func stopServers() {
	for _, cmd := range running {
		_ = cmd.Process.Signal(syscall.SIGINT) // PostgreSQL: fast shutdown
		done := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		done.Stop()
	}
}

// up waits until an address takes connections.
func up(t *testing.T, a netip.AddrPort) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		c, err := net.DialTimeout("tcp", a.String(), time.Second)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come up: %v", a, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// count is how many connections of a kind had a result.
func count(k tcproute.Kind, r tcproute.Result) uint64 {
	for _, c := range router.Counts() {
		if c.Kind == k.Label() && c.Result == r {
			return c.N
		}
	}
	return 0
}
