// SPDX-License-Identifier: Apache-2.0

// Package docker_test proves what fairlead does with containers: a real Docker
// daemon and a real agent in namespaces of their own, and a client on a wire
// before them.
package docker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/pkg/dockerd/dockertest"
	"github.com/fairlead-lb/fairlead/pkg/nexthop/nstest"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

func TestMain(m *testing.M) { dockertest.Main(func() { os.Exit(m.Run()) }) }

// patience is how long anything may take.
const patience = 30 * time.Second

// world is a node with a Docker daemon and an agent, and a client before it.
type world struct {
	*dockertest.Dockerd
	t      *testing.T
	client *nstest.NS
	dir    string
	cmd    *exec.Cmd     // of the agent; nil: none runs
	ended  chan struct{} // closed when it has
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, client: nstest.New(t), dir: t.TempDir()}
	w.client.Veth(t, "up0", []string{"198.51.100.1/24", "fd00:c::1/64"}, "eth0", []string{"198.51.100.2/24", "fd00:c::2/64"})
	for dst, via := range map[string]string{"198.18.0.0/16": "198.51.100.1", "fd00:198:18::/112": "fd00:c::1"} {
		_, network, err := net.ParseCIDR(dst)
		must(t, err)
		must(t, w.client.RouteAdd(&netlink.Route{Dst: network, Gw: net.ParseIP(via)}))
	}
	root, err := listen.Cgroup2()
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(root, dockertest.Cgroup()), 0o755))
	w.Dockerd = dockertest.Start(t, dockertest.Cgroup())
	w.Import(t, "app:1", dockertest.Program(t))
	t.Cleanup(func() { // before the daemon ends
		w.kill()
		if out, err := w.command("detach").CombinedOutput(); err != nil {
			t.Errorf("detach: %v: %s", err, out)
		}
		if left := w.containers(); len(left) > 0 {
			t.Errorf("containers %v are left after detach", left)
		}
		if t.Failed() {
			log, _ := os.ReadFile(w.path("log"))
			t.Logf("agent: %s", log[max(0, len(log)-8000):])
		}
	})
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// containers lists those that fairlead made.
func (w *world) containers() []string {
	return slices.DeleteFunc(w.Names(w.t, true), func(name string) bool { return !strings.HasPrefix(name, "fairlead-") })
}

// write replaces the config file.
func (w *world) write(settings, services string) {
	w.t.Helper()
	root, err := listen.Cgroup2()
	must(w.t, err)
	text := fmt.Sprintf("node: {interfaces: [up0], cgroup: %q}\ndocker: {host: %q, labels: %v}\nlisten: {http: \":80\", https: \"\", metrics: \"\", dashboard: \"\", postgres: \"\", mongo: \"\", redis: \"\"}\n%sservices:\n%s",
		filepath.Join(root, dockertest.Cgroup()), w.Host(), strings.Contains(settings, "labels"), strings.ReplaceAll(settings, "labels\n", ""), services)
	must(w.t, os.WriteFile(w.path("new.yaml"), []byte(text), 0o600))
	must(w.t, os.Rename(w.path("new.yaml"), w.path("fairlead.yaml")))
}

// runDir is the same for every test: Main removes the cgroups that an agent
// there may leave.
func runDir() string { return dockertest.RunDir() }

func (w *world) command(verb string, args ...string) *exec.Cmd {
	return exec.Command(dockertest.Program(w.t), append([]string{verb, "--run", runDir()}, args...)...)
}

// run starts an agent and waits until all of the config is in force.
func (w *world) run() {
	w.t.Helper()
	log, err := os.OpenFile(w.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(w.t, err)
	defer log.Close()
	w.cmd = w.command("run", "--config", w.path("fairlead.yaml"), "--state", w.path("state"))
	w.cmd.Stdout, w.cmd.Stderr = log, log
	must(w.t, w.cmd.Start())
	w.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(w.cmd, w.ended)
	w.poll("the agent is ready", func() error {
		out, err := w.command("status").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "all targets at generation") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// kill ends the agent as a crash would.
func (w *world) kill() {
	if w.cmd != nil {
		_ = w.cmd.Process.Kill()
		<-w.ended
		w.cmd = nil
	}
}

// stop ends the agent as an init system would.
func (w *world) stop() {
	w.t.Helper()
	must(w.t, w.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-w.ended:
	case <-time.After(patience):
		w.t.Fatal("the agent did not end on SIGTERM")
	}
	w.cmd = nil
}

// cli runs a fairlead command.
func (w *world) cli(verb string, args ...string) string {
	w.t.Helper()
	out, err := w.command(verb, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("fairlead %s %v: %v: %s", verb, args, err, out)
	}
	return string(out)
}

func (w *world) workloads() []lab.WorkloadView {
	w.t.Helper()
	var list []lab.WorkloadView
	must(w.t, json.Unmarshal([]byte(w.cli("workloads", "-o", "json")), &list))
	return list
}

func (w *world) service(name string) lab.ServiceView {
	w.t.Helper()
	var list []lab.ServiceView
	must(w.t, json.Unmarshal([]byte(w.cli("services", "-o", "json")), &list))
	for _, s := range list {
		if s.Name == name {
			return s
		}
	}
	return lab.ServiceView{}
}

// poll tries until f has no error.
func (w *world) poll(what string, f func() error) {
	w.t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	w.t.Fatalf("not within %s: %s: %v", patience, what, err)
}

// ready waits until so many replicas of a service serve.
func (w *world) ready(service string, n int) []lab.WorkloadView {
	w.t.Helper()
	var found []lab.WorkloadView
	w.poll(fmt.Sprintf("%d ready replicas of %s", n, service), func() error {
		found = nil
		all := w.workloads()
		for _, r := range all {
			if r.Service == service && r.Phase == "ready" {
				found = append(found, r)
			}
		}
		if len(found) != n || len(w.service(service).Replicas) != n {
			return fmt.Errorf("there is %+v", all)
		}
		return w.applied()
	})
	return found
}

// applied tells whether all targets have the newest state.
func (w *world) applied() error {
	var s lab.Status
	out, _ := w.command("status", "-o", "json").Output() // with problems it may end with 1
	if err := json.Unmarshal(out, &s); err != nil || !s.Ready {
		return fmt.Errorf("not all targets have the newest state: %v: %s", err, out)
	}
	return nil
}

// asleep waits until nothing runs of a service.
func (w *world) asleep(service string) {
	w.t.Helper()
	w.poll(service+" is asleep", func() error {
		for _, r := range w.workloads() {
			if r.Service == service {
				return fmt.Errorf("there is %+v", r)
			}
		}
		return nil
	})
}

// get asks over HTTP from the client's namespace, over a connection of its own.
func (w *world) get(to netip.AddrPort, host string) (code int, body string, err error) {
	dial := net.Dialer{Timeout: patience}
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, Dial: func(string, string) (c net.Conn, err error) { //nolint:staticcheck // on a thread of the client's
		w.client.Do(w.t, func() error {
			c, err = dial.Dial("tcp", to.String())
			return nil
		})
		return c, err
	}}}
	q, err := http.NewRequest(http.MethodGet, "http://"+to.String()+"/", nil)
	if err != nil {
		return 0, "", err
	}
	if host != "" {
		q.Host = host
	}
	answer, err := client.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(b), err
}

// answers asks, and wants the answer of a replica.
func (w *world) answers(to netip.AddrPort, host, replica string) {
	w.t.Helper()
	code, body, err := w.get(to, host)
	if err != nil || code != http.StatusOK || !strings.Contains(body, replica) {
		w.t.Errorf("%s %s: %d, %v: %s; want an answer of %s", to, host, code, err, body, replica)
	}
}

// front is the HTTP front of the node.
var front = netip.MustParseAddrPort("198.51.100.1:80")

var errNotYet = errors.New("not yet")

// vip4 and vip6 are the k-th virtual IPs.
func vip4(k int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(k)}), port)
}

func vip6(k int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("fd00:198:18::%x", k)), port)
}

// app is the YAML of a service whose container runs `fairlead echo ARGS`.
func app(name string, k int, more, args string) string {
	return fmt.Sprintf(`- project: shop
  user: %s
  vip: 198.18.0.%d
  vip6: "fd00:198:18::%x"
  drain: 1s
%s  workload:
    driver: docker
    image: app:1
    command: [echo, %s]
`, name, k, k, more, args)
}
