// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// workload is two replicas that fairlead starts itself: `fairlead echo ARGS`.
func workload(args ...string) string {
	var quoted []string
	for _, a := range append([]string{lab.Binary(), "echo"}, args...) {
		quoted = append(quoted, fmt.Sprintf("%q", a))
	}
	return fmt.Sprintf("    driver: process\n    command: [%s]\n    scale: {min: 2, max: 2}\n", strings.Join(quoted, ", "))
}

// waitReplicas waits until a service has so many ready replicas and returns
// them.
func waitReplicas(t *testing.T, a *lab.Agent, service string, count int) []lab.WorkloadView {
	t.Helper()
	var ready []lab.WorkloadView
	lab.Poll(t, 20*time.Second, func() error {
		ready = nil
		all := a.Workloads(t)
		for _, w := range all {
			if w.Service == service && w.Phase == "ready" {
				ready = append(ready, w)
			}
		}
		if n := len(a.Services(t)[service].Replicas); len(ready) != count || n != count {
			return fmt.Errorf("%d replicas of %s are ready and %d in the state, wanted %d: %+v", len(ready), service, n, count, all)
		}
		return nil
	}, a.Log)
	a.WaitReady(t, 0)
	return ready
}

// TestWorkloads: replicas that fairlead runs are reached from the network,
// from the host, and from each other by the virtual IP; when the agent is told
// to stop they are gone.
func TestWorkloads(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		web := service(l, 30, "shop/web", "90", "8090", "tcp")
		web.Workload = workload("--http", ":8090")
		dgram := service(l, 31, "shop/dgram", "71", "7001", "udp")
		dgram.Workload = workload("--udp", ":7001")
		a := l.Start(t, lab.Config{Services: []lab.Service{web, dgram}})
		replicas := waitReplicas(t, a, "shop/web", 2)
		waitReplicas(t, a, "shop/dgram", 2)
		families(t, func(t *testing.T, f lab.Family) {
			t.Run("A04FromTheNetwork", func(t *testing.T) { echoSpread(t, l.Client, vip(f, 30, 90)) })
			t.Run("A06FromAReplica", func(t *testing.T) {
				for _, r := range replicas {
					echoSpread(t, lab.NetnsOf(r.PID), vip(f, 30, 90))
					echoUDP(t, lab.NetnsOf(r.PID), vip(f, 31, 71))
				}
			})
			t.Run("A04FromTheHost", func(t *testing.T) {
				out, err := a.HostCommand(t, "curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://"+vip(f, 30, 90).String()+"/").CombinedOutput()
				if err != nil || !strings.Contains(string(out), "name:") {
					t.Errorf("curl on the host: %v: %s", err, out)
				}
			})
			t.Run("A04UDP", func(t *testing.T) { echoUDP(t, l.Client, vip(f, 31, 71)) })
		})
		t.Run("KilledReplicaIsStartedAgain", func(t *testing.T) {
			must(t, syscall.Kill(replicas[0].PID, syscall.SIGKILL))
			lab.Poll(t, 10*time.Second, func() error {
				for _, r := range a.Workloads(t) {
					if r.ID == replicas[0].ID && r.Phase == "ready" && r.PID != replicas[0].PID {
						return nil
					}
				}
				return lab.ErrNotYet
			}, a.Log)
			waitReplicas(t, a, "shop/web", 2)
			echoSpread(t, l.Client, vip(lab.V4, 30, 90))
		})
		a.Stop(t)
		for _, r := range replicas[1:] {
			if lab.Alive(r.PID) {
				t.Errorf("replica %s, pid %d, runs on after the agent was told to stop", r.ID, r.PID)
			}
		}
	})
}

// echoSpread asks `fairlead echo` until two replicas have answered.
func echoSpread(t *testing.T, from *lab.Netns, remote netip.AddrPort) {
	t.Helper()
	names := map[string]bool{}
	name := regexp.MustCompile(`(?m)^name: +(.*)$`)
	for range 40 {
		out, err := from.Try("curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://"+remote.String()+"/")
		m := name.FindStringSubmatch(out)
		if err != nil || m == nil {
			t.Fatalf("curl from %s to %v: %v: %s; answered so far: %v", from.Name, remote, err, out, names)
		}
		names[m[1]] = true
		if len(names) == 2 {
			return
		}
	}
	t.Errorf("40 requests from %s to %v reached only %v", from.Name, remote, names)
}

func echoUDP(t *testing.T, from *lab.Netns, remote netip.AddrPort) {
	t.Helper()
	for range 5 {
		c, err := from.Dial("udp", netip.AddrPort{}, remote, time.Second)
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(lab.Patience(2*time.Second))))
		_, err = c.Write([]byte("there and back"))
		must(t, err)
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) != "there and back" {
			t.Fatalf("udp from %s to %v: %q, %v", from.Name, remote, buf[:n], err)
		}
	}
}

// TestQuickstart: examples/quickstart.yaml on a host without any network:
// every command that the agent prints gets an answer.
func TestQuickstart(t *testing.T) {
	text, err := os.ReadFile("../../examples/quickstart.yaml")
	must(t, err)
	host := lab.Bare(t)
	a := lab.NewAgent(t, host, lab.Any(t))
	// Only the cgroup differs, so that the test does not reach into the machine.
	marker := "  interfaces: []\n"
	if strings.Count(string(text), marker) != 1 {
		t.Fatalf("quickstart.yaml: want %q once", marker)
	}
	a.WriteText(t, strings.Replace(string(text), marker, marker+fmt.Sprintf("  cgroup: %q\n", a.Cgroup), 1))
	a.Setenv("PATH=" + filepath.Dir(lab.Binary()) + ":" + os.Getenv("PATH"))
	a.Run(t)
	a.WaitReady(t, 0)
	waitReplicas(t, a, "hello/demo", 3)
	waitReplicas(t, a, "echo/demo", 2)
	var commands []string
	lab.Poll(t, 20*time.Second, func() error {
		commands = regexp.MustCompile(`(curl http://\S+|echo hello \| nc .*)`).FindAllString(a.Out(), -1)
		if len(commands) < 3 {
			return fmt.Errorf("printed so far: %s", a.Out())
		}
		return nil
	}, a.Log)
	shell, err := exec.LookPath("sh")
	must(t, err)
	for _, c := range commands {
		c = strings.TrimSpace(c)
		out, err := a.HostCommand(t, shell, "-c", c).CombinedOutput()
		if err != nil || len(out) == 0 || strings.HasPrefix(c, "echo hello") && !strings.Contains(string(out), "hello") {
			t.Errorf("%s: %v: %q", c, err, out)
		}
	}
	if s := a.Status(t); len(s.Interfaces) > 0 && strings.Contains(fmt.Sprint(s.Interfaces), "lo") {
		t.Errorf("interfaces: [] and yet the agent is on %+v", s.Interfaces)
	}
}
