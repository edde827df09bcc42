// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// sleepy is a service that sleeps from the start.
func sleepy(t *testing.T, l *lab.Lab, k int, name, port string, delay time.Duration, scale string) lab.Service {
	s := service(l, k, name, port, "8025", "tcp")
	s.Workload = lab.Greeter(t, delay, scale)
	return s
}

// converse has a whole conversation with a Greeter: it is greeted before it
// says anything, gets back what it sends, and closes its half first.
func converse(from *lab.Netns, to netip.AddrPort) error {
	c, err := from.Dial("tcp", netip.AddrPort{}, to, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(lab.Patience(30 * time.Second))); err != nil {
		return err
	}
	if err := hear(c, lab.Greeting); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	return finish(c)
}

// finish ends a conversation after the greeting.
func finish(c net.Conn) error {
	if _, err := io.WriteString(c, "there and back"); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(c)
	if err != nil || string(rest) != "there and back" {
		return fmt.Errorf("after half-close: %q, %w", rest, err)
	}
	return nil
}

func hear(c net.Conn, want string) error {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		return fmt.Errorf("%q, %w", got, err)
	}
	return nil
}

// waitStage waits until nothing, or something, runs of a service.
func waitAsleep(t *testing.T, a *lab.Agent, service string) {
	t.Helper()
	lab.Poll(t, 20*time.Second, func() error {
		for _, w := range a.Workloads(t) {
			if w.Service == service {
				return fmt.Errorf("%s runs: %+v", service, w)
			}
		}
		return nil
	}, a.Log)
	a.WaitReady(t, 0)
}

// starts counts how often a service was started.
func starts(t *testing.T, a *lab.Agent, service string) int {
	t.Helper()
	log, err := os.ReadFile(a.Path("log")) // all of it
	must(t, err)
	return strings.Count(string(log), `msg="replica is ready" replica=`+strings.ReplaceAll(service, "/", ".")+".")
}

// TestD03Sleep: a service that sleeps is started by the first connection, from
// wherever it comes, and is stopped when nobody uses it any more.
func TestD03Sleep(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		mail := sleepy(t, l, 40, "shop/mail", "25", 0, "{min: 0, idle: 1s}")
		slow := sleepy(t, l, 41, "shop/slow", "26", 700*time.Millisecond, "{min: 0, idle: 1h}")
		slow.Expose = map[int]int{2526: 26}
		dead := sleepy(t, l, 42, "shop/dead", "27", 0, "{min: 0, startTimeout: 2s}")
		dead.Workload = "    driver: process\n    command: [/bin/false]\n    scale: {min: 0, startTimeout: 5s}\n"
		inner := service(l, 43, "shop/inner", "28", "8028", "tcp")
		inner.Workload = workload("--tcp", ":8028")
		a := l.Start(t, lab.Config{Services: []lab.Service{mail, slow, dead, inner}})
		inside := lab.NetnsOf(waitReplicas(t, a, "shop/inner", 2)[0].PID)
		waitAsleep(t, a, "shop/mail")

		families(t, func(t *testing.T, f lab.Family) {
			t.Run("W01FromTheNetwork", func(t *testing.T) {
				waitAsleep(t, a, "shop/mail")
				must(t, converse(l.Client, vip(f, 40, 25)))
				must(t, converse(l.Client, vip(f, 40, 25))) // awake
			})
			t.Run("W01FromAReplica", func(t *testing.T) {
				waitAsleep(t, a, "shop/mail")
				must(t, converse(inside, vip(f, 40, 25)))
			})
			t.Run("W01FromTheHost", func(t *testing.T) {
				waitAsleep(t, a, "shop/mail")
				for range 2 {
					to := vip(f, 40, 25)
					out, err := a.HostCommand(t, "/usr/bin/bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d && head -n 1 <&3", to.Addr(), to.Port())).CombinedOutput()
					if string(out) != lab.Greeting {
						t.Errorf("bash on the host: %v: %q", err, out)
					}
				}
			})
		})
		t.Run("W02OneStartForMany", func(t *testing.T) {
			var wg sync.WaitGroup
			errs := make([]error, 100)
			for i := range errs {
				wg.Go(func() {
					f := []lab.Family{lab.V4, lab.V6}[i%2]
					to := vip(f, 41, 26)
					if i%4 == 3 {
						to = netip.AddrPortFrom(lab.NodeAddr(f), 2526)
					}
					errs[i] = converse(l.Client, to)
				})
			}
			wg.Wait()
			must(t, errors.Join(errs...))
			if n := starts(t, a, "shop/slow"); n != 1 {
				t.Errorf("%d starts for %d clients", n, len(errs))
			}
		})
		t.Run("W04WarmGoesStraight", func(t *testing.T) {
			waitReplicas(t, a, "shop/slow", 1)
			before := a.Services(t)["shop/slow"].Ports[0].Connections
			must(t, converse(l.Client, vip(lab.V4, 41, 26)))
			if n := a.Services(t)["shop/slow"].Ports[0].Connections - before; n != 1 {
				t.Errorf("the data plane led %d connections, wanted 1", n)
			}
		})
		t.Run("W03Fails", func(t *testing.T) {
			begun := time.Now()
			err := converse(l.Client, vip(lab.V4, 42, 27))
			if err == nil || time.Since(begun) > lab.Patience(20*time.Second) {
				t.Errorf("a service that does not start: %v after %s", err, time.Since(begun))
			}
		})
	})
}

// TestW04HeldConnectionsLiveOn: a connection that was opened while the service
// slept goes on when it is awake, and keeps it awake.
func TestW04HeldConnectionsLiveOn(t *testing.T) {
	lab.Some(t, []string{"tcx", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		a := l.Start(t, lab.Config{Services: []lab.Service{sleepy(t, l, 40, "shop/mail", "25", 300*time.Millisecond, "{min: 0, idle: 1s}")}})
		families(t, func(t *testing.T, f lab.Family) {
			waitAsleep(t, a, "shop/mail")
			c, err := l.Client.Dial("tcp", netip.AddrPort{}, vip(f, 40, 25), 10*time.Second)
			must(t, err)
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(lab.Patience(60*time.Second))))
			must(t, hear(c, lab.Greeting))
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); { // four times as long as idle
				must(t, converse(l.Client, vip(f, 40, 25)))
				_, err := io.WriteString(c, "ping")
				must(t, err)
				must(t, hear(c, "ping"))
				time.Sleep(1200 * time.Millisecond) // longer than idle: only the open connection keeps it awake
			}
			if w := a.Workloads(t); len(w) != 1 {
				t.Errorf("it fell asleep with an open connection: %+v", w)
			}
		})
	})
}

// TestW06RestartWakesNobody: a new agent neither starts what sleeps nor stops
// what is awake, and both can be reached.
func TestW06RestartWakesNobody(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := l.Start(t, lab.Config{Services: []lab.Service{
			sleepy(t, l, 40, "shop/mail", "25", 0, "{min: 0, idle: 1h}"), sleepy(t, l, 41, "shop/other", "26", 0, "{min: 0, idle: 1h}"),
		}})
		must(t, converse(l.Client, vip(lab.V4, 40, 25)))
		was := waitReplicas(t, a, "shop/mail", 1)[0]
		c, err := l.Client.Dial("tcp", netip.AddrPort{}, vip(lab.V4, 40, 25), 10*time.Second)
		must(t, err)
		defer c.Close()
		must(t, hear(c, lab.Greeting))
		a.Kill(t)
		a.Run(t)
		a.WaitReady(t, 0)
		if now := waitReplicas(t, a, "shop/mail", 1)[0]; now.PID != was.PID {
			t.Errorf("the awake one was %+v and is %+v", was, now)
		}
		waitAsleep(t, a, "shop/other")
		must(t, c.SetDeadline(time.Now().Add(lab.Patience(30*time.Second))))
		must(t, finish(c))
		must(t, converse(l.Client, vip(lab.V4, 41, 26)))
	})
}

// TestD03HTTP: a request wakes its service and is answered by it; requests that
// are refused, redirected or nobody's wake nothing (row D13); a stopped service
// is not woken (row A30); one that does not start is told of with 503 (row W03).
func TestD03HTTP(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := lab.NewAgent(t, l.Node, l.Mode)
		text := "node: {interfaces: [up0], cgroup: \"\"}\nservices:\n"
		add := func(user, more, command string) {
			text += fmt.Sprintf("- project: shop\n  user: %s\n  run: {containerPort: 8090, servicePort: 80}\n  expose:\n  - http: {host: %[1]s.example.test, tls: off}\n"+
				"  workload: {driver: process, command: [%s], scale: {min: 0, idle: 2s, startTimeout: 5s}}\n%s", user, command, more)
		}
		self := fmt.Sprintf("%q, echo, --http, \":8090\"", lab.Binary())
		add("web", "  health: {type: tcp, interval: 1s}\n", self)
		add("checked", "  health: {type: http, path: /, interval: 1s}\n", self)
		add("closed", "  allow: [203.0.113.0/24]\n", self)
		add("dead", "", "/bin/false")
		a.WriteText(t, text)
		a.Run(t)
		a.WaitReady(t, 0)
		ask := func(host string) string {
			out, err := l.Client.Try("curl", "-sS", "-i", "--noproxy", "*", "--max-time", "30", "-H", "Accept: application/json", "-H", "Host: "+host, "http://"+lab.NodeAddr(lab.V4).String()+"/")
			if err != nil {
				t.Errorf("curl for %s: %v", host, err)
			}
			return out
		}
		var wg sync.WaitGroup
		for _, name := range []string{"web", "checked"} {
			for range 5 {
				wg.Go(func() {
					if out := ask(name + ".example.test"); !strings.Contains(out, " 200 ") || !strings.Contains(out, "name:") && !strings.Contains(out, "name\"") {
						t.Errorf("%s: %s", name, out)
					}
				})
			}
		}
		wg.Wait()
		for _, name := range []string{"shop/web", "shop/checked"} {
			if n := starts(t, a, name); n != 1 {
				t.Errorf("%s was started %d times", name, n)
			}
		}
		if out := ask("closed.example.test"); !strings.Contains(out, " 403 ") {
			t.Errorf("a client that is not allowed: %s", out)
		}
		if n := starts(t, a, "shop/closed"); n != 0 {
			t.Errorf("a refused request woke the service %d times", n)
		}
		if out := ask("dead.example.test"); !strings.Contains(out, " 503 ") || !strings.Contains(out, "Retry-After") || !strings.Contains(out, "exit status 1") {
			t.Errorf("a service that does not start: %s", out)
		}
		// Checks do not keep it awake.
		waitAsleep(t, a, "shop/web")
		waitAsleep(t, a, "shop/checked")
	})
}

// TestW09Verbs: the commands act at once, and say why a service sleeps or not. A
// stopped one is not woken, also by the next agent.
func TestW09Verbs(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := l.Start(t, lab.Config{Services: []lab.Service{sleepy(t, l, 40, "shop/mail", "25", 0, "{min: 0, idle: 1h}")}})
		mail := func(verb, want string) {
			t.Helper()
			if out, err := a.TryCLI(verb, "shop/mail"); !strings.Contains(out, want) {
				t.Errorf("fairlead %s: %v: %s; want %q in it", verb, err, out, want)
			}
		}
		mail("status", "asleep since")
		mail("wake", "awake since")
		waitReplicas(t, a, "shop/mail", 1)
		mail("status", "because of: fairlead wake")
		mail("status", "falls asleep at")
		mail("sleep", "dozing")
		waitAsleep(t, a, "shop/mail")
		must(t, converse(l.Client, vip(lab.V4, 40, 25)))
		mail("status", "because of: a connection from "+lab.ClientAddr(lab.V4).String())
		mail("stop", "stopped since")
		waitAsleep(t, a, "shop/mail")
		for range 2 { // this agent, and the next one
			if err := converse(l.Client, vip(lab.V4, 40, 25)); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a connection to a stopped service: %v, want it refused", err)
			}
			if out, err := a.TryCLI("wake", "shop/mail"); err == nil {
				t.Errorf("wake of a stopped service: %s", out)
			}
			a.Kill(t)
			a.Run(t)
			a.WaitReady(t, 0)
			waitAsleep(t, a, "shop/mail")
		}
		mail("start", "asleep since")
		a.WaitReady(t, 0)
		must(t, converse(l.Client, vip(lab.V4, 40, 25)))
		if out, err := a.TryCLI("sleep", "shop/none"); err == nil {
			t.Errorf("a service that is not there: %s", out)
		}
	})
}

// TestW08Ready: from listen() in the workload to the first byte of a connection
// that was held, which its client sends once it is greeted; by an event, so that
// half of the starts take less than a look would be due at. The figure is told;
// the bound is for a slow machine. make bench-wake measures it without the
// greeting.
func TestW08Ready(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		const starts = 8
		a := l.Start(t, lab.Config{Services: []lab.Service{sleepy(t, l, 40, "shop/mail", "25", 120*time.Millisecond, "{min: 0, idle: 1h}")}})
		for range starts {
			waitAsleep(t, a, "shop/mail")
			must(t, converse(l.Client, vip(lab.V4, 40, 25)))
			lab.Poll(t, 10*time.Second, func() error { // the last connection may not be over yet
				_, err := a.TryCLI("sleep", "shop/mail")
				return err
			})
		}
		logs, err := filepath.Glob(a.Path("state/workloads/logs/shop.mail.*.log"))
		must(t, err)
		var took []time.Duration
		for _, path := range logs {
			text, err := os.ReadFile(path)
			must(t, err)
			for _, m := range regexp.MustCompile(`first byte after (\d+) us`).FindAllStringSubmatch(string(text), -1) {
				us, _ := strconv.Atoi(m[1])
				took = append(took, time.Duration(us)*time.Microsecond)
			}
		}
		slices.Sort(took)
		if len(took) < starts {
			t.Fatalf("%d starts told of, wanted %d: %v", len(took), starts, took)
		}
		t.Logf("listen to the first byte of a client: p50 %s, worst %s", took[len(took)/2], took[len(took)-1])
		if p50 := took[len(took)/2]; p50 > lab.Patience(100*time.Millisecond) {
			t.Errorf("p50 %s", p50)
		}
	})
}
