// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// sleepyHTTP is a service that sleeps and has a host name.
func sleepyHTTP(user, command, scale string) string {
	return fmt.Sprintf("- project: shop\n  user: %s\n  run: {containerPort: 8090, servicePort: 80}\n  expose:\n  - http: {host: %[1]s.example.test, tls: off}\n"+
		"  workload: {driver: process, command: [%s], scale: {min: 0, idle: 1h, %s}}\n", user, command, scale)
}

// answer is what curl got.
type answer struct {
	code int
	head string
	body string
	took time.Duration
}

// curlHost asks the HTTP front for a host.
func curlHost(t *testing.T, l *lab.Lab, host string, more ...string) answer {
	t.Helper()
	begun := time.Now()
	args := append([]string{"-sS", "-i", "--noproxy", "*", "--max-time", "40", "-H", "Host: " + host}, more...)
	out, err := l.Client.Try("curl", append(args, "http://"+lab.NodeAddr(lab.V4).String()+"/")...)
	if err != nil {
		t.Errorf("curl for %s: %v: %s", host, err, out)
	}
	head, body, _ := strings.Cut(out, "\r\n\r\n")
	a := answer{head: head, body: body, took: time.Since(begun)}
	if f := strings.Fields(head); len(f) > 1 {
		a.code, _ = strconv.Atoi(f[1])
	}
	return a
}

func (a answer) String() string { return fmt.Sprintf("after %s:\n%s\n\n%s", a.took, a.head, a.body) }

// TestW03RealFailures: programs that end at once, are not there, or never listen:
// what clients and the operator see, and that none of it concerns others.
func TestW03RealFailures(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := lab.NewAgent(t, l.Node, l.Mode)
		const hanging = 8
		text := fmt.Sprintf("node: {interfaces: [up0], cgroup: \"\"}\nlisten: {metrics: \"%s:9320\"}\nservices:\n", lab.NodeAddr(lab.V4))
		text += sleepyHTTP("crash", `sh, -c, "echo no database at db1 >&2; exit 3"`, "startTimeout: 20s")
		text += sleepyHTTP("missing", "/nonexistent/app", "startTimeout: 20s")
		text += sleepyHTTP("full", "sleep, 1000", "startTimeout: 20s, queue: 2")
		for i := range hanging {
			text += sleepyHTTP(fmt.Sprintf("hang%d", i), "sleep, 1000", "startTimeout: 8s")
		}
		text += sleepyHTTP("good", fmt.Sprintf("%q, echo, --http, \":8090\"", lab.Binary()), "startTimeout: 20s")
		text += sleepyHTTP("page", fmt.Sprintf("sh, -c, \"sleep 4; exec %s echo --http :8090\"", lab.Binary()), "startTimeout: 20s, waitingPage: 1s")
		a.WriteText(t, text)
		a.Run(t)
		a.WaitReady(t, 0)
		said := func(name string, got answer, words ...string) {
			t.Helper()
			if got.code != 503 || !regexp.MustCompile(`Retry-After: [1-9]`).MatchString(got.head) {
				t.Errorf("%s: %s", name, got)
			}
			for _, w := range words {
				if !strings.Contains(got.body, w) {
					t.Errorf("%s: no %q in %s", name, w, got.body)
				}
			}
		}
		t.Run("CrashLoop", func(t *testing.T) {
			said("crash", curlHost(t, l, "crash.example.test", "-H", "Accept: application/json"), "it ended 3 times before it was ready", "exit status 3", "no database at db1", "the next try is at")
			// Hundreds ask meanwhile: at once, and without a start for each.
			ended := func() int {
				log, err := os.ReadFile(a.Path("log"))
				must(t, err)
				return strings.Count(string(log), `msg="replica ended" replica=shop.crash.`)
			}
			before, begun := ended(), time.Now()
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { said("again", curlHost(t, l, "crash.example.test"), "no database at db1") })
			}
			wg.Wait()
			// Three ends for each start, and the pause is at least a second.
			if most := 3 * (1 + int(time.Since(begun)/time.Second)); ended()-before > most {
				t.Errorf("%d ends for 50 requests in %s, want %d at most", ended()-before, time.Since(begun), most)
			}
			out := a.CLI(t, "status", "shop/crash")
			for _, want := range []string{"asleep since", "its last start failed", "no database at db1"} {
				if !strings.Contains(out, want) {
					t.Errorf("fairlead status has no %q:\n%s", want, out)
				}
			}
			if out := a.CLI(t, "status"); !strings.Contains(out, "service shop/crash: its last start failed") {
				t.Errorf("the status of all does not tell of it:\n%s", out)
			}
		})
		t.Run("ProgramMissing", func(t *testing.T) {
			got := curlHost(t, l, "missing.example.test")
			said("missing", got, "cannot be started", "/nonexistent/app", "no such program")
		})
		t.Run("OthersDoNotWait", func(t *testing.T) {
			var wg sync.WaitGroup
			for i := range hanging {
				wg.Go(func() {
					got := curlHost(t, l, fmt.Sprintf("hang%d.example.test", i))
					said("hang", got, "was not ready in time", "nothing listens on 8090")
					if got.took < 7*time.Second {
						t.Errorf("a start that hangs was given up: %s", got)
					}
				})
			}
			lab.Poll(t, 20*time.Second, func() error {
				n := 0
				for _, w := range a.Workloads(t) {
					if strings.HasPrefix(w.Service, "shop/hang") && w.PID != 0 {
						n++
					}
				}
				if n < hanging {
					return fmt.Errorf("%d of %d hang", n, hanging)
				}
				return nil
			}, a.Log)
			if got := curlHost(t, l, "good.example.test"); got.code != 200 || got.took > 6*time.Second {
				t.Errorf("while others hang: %s", got)
			}
			wg.Wait()
		})
		t.Run("QueueFull", func(t *testing.T) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			full := 0
			for range 6 {
				wg.Go(func() {
					got := curlHost(t, l, "full.example.test")
					said("full", got)
					mu.Lock()
					defer mu.Unlock()
					if strings.Contains(got.body, "too many connections wait") {
						full++
					}
				})
			}
			wg.Wait()
			if full != 4 {
				t.Errorf("%d of 6 were told that the queue is full, want 4", full)
			}
		})
		t.Run("W07WaitingPage", func(t *testing.T) {
			page := curlHost(t, l, "page.example.test", "-H", "Accept: text/html,*/*;q=0.8")
			if page.code != 503 || !strings.Contains(page.head, "Refresh: 2") || !strings.Contains(page.body, "This page reloads by itself") {
				t.Errorf("a browser: %s", page)
			}
			if got := curlHost(t, l, "page.example.test"); got.code != 200 {
				t.Errorf("a program: %s", got)
			}
			if got := curlHost(t, l, "page.example.test", "-H", "Accept: text/html"); got.code != 200 {
				t.Errorf("the reload: %s", got)
			}
		})
		t.Run("A30Stopped", func(t *testing.T) {
			a.CLI(t, "stop", "shop/good")
			waitAsleep(t, a, "shop/good")
			if got := curlHost(t, l, "good.example.test"); got.code != 503 || !strings.Contains(got.body, "stopped by its owner") {
				t.Errorf("a stopped service: %s", got)
			}
		})
		metrics, err := l.Client.Try("curl", "-sS", "http://"+lab.NodeAddr(lab.V4).String()+":9320/metrics")
		must(t, err)
		for _, want := range []string{
			`fairlead_wake_total{cause="request",result="failed",service="shop/crash"} `, `fairlead_wake_total{cause="request",result="refused",service="shop/crash"} `,
			`fairlead_wake_total{cause="request",result="failed",service="shop/missing"} 1`, `fairlead_wake_total{cause="request",result="timeout",service="shop/hang0"} 1`,
			`fairlead_wake_total{cause="request",result="queue_full",service="shop/full"} 4`, `fairlead_wake_total{cause="request",result="ready",service="shop/good"} 1`,
			`fairlead_wake_duration_seconds_count{phase="start",service="shop/good"} 1`, `fairlead_wake_duration_seconds_count{phase="listen",service="shop/good"} 1`,
			`fairlead_wake_duration_seconds_count{phase="first_byte",service="shop/good"} 1`, `fairlead_sleeping{service="shop/missing"} 1`,
		} {
			if !strings.Contains(metrics, want) {
				t.Errorf("no %s in the metrics", want)
			}
		}
	})
}

// TestW03CrashesAfterReady: a program that was ready and is killed again and
// again: a short pause is held over, a long one is told of at once.
func TestW03CrashesAfterReady(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := lab.NewAgent(t, l.Node, l.Mode)
		a.WriteText(t, "node: {interfaces: [up0], cgroup: \"\"}\nservices:\n"+
			sleepyHTTP("web", fmt.Sprintf("%q, echo, --http, \":8090\"", lab.Binary()), "startTimeout: 20s"))
		a.Run(t)
		a.WaitReady(t, 0)
		var told answer
		held := 0
		end := time.Now().Add(time.Minute)
		for kills := 0; told.code == 0 && kills < 10 && time.Now().Before(end); kills++ {
			got := curlHost(t, l, "web.example.test")
			switch {
			case got.code == 502: // killed a moment ago, and the front does not know yet
				kills--
				time.Sleep(10 * time.Millisecond)
			case got.code == 200:
				held++
				w := waitReplicas(t, a, "shop/web", 1)[0]
				must(t, syscall.Kill(w.PID, syscall.SIGKILL))
				lab.Poll(t, 10*time.Second, func() error {
					for _, now := range a.Workloads(t) {
						if now.PID == w.PID {
							return fmt.Errorf("it lives: %+v", now)
						}
					}
					return nil
				}, a.Log)
			default:
				told = got
			}
		}
		if held < 3 || told.code != 503 || !strings.Contains(told.body, "it does not stay up") || !strings.Contains(told.head, "Retry-After: ") || told.took > 2*time.Second {
			t.Errorf("held %d times, then %s", held, told)
		}
		// Left alone it is there again.
		lab.Poll(t, 40*time.Second, func() error {
			if got := curlHost(t, l, "web.example.test"); got.code != 200 {
				return fmt.Errorf("%s", got)
			}
			return nil
		}, a.Log)
	})
}

// TestStateOnAFullDisk: while the file system of the state directory is full
// the agent wakes, serves and stops services as ever and says that it cannot
// keep what it knows; once there is room it does.
func TestStateOnAFullDisk(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := lab.NewAgent(t, l.Node, l.Mode)
		must(t, os.MkdirAll(a.Path("state"), 0o755))
		must(t, syscall.Mount("tmpfs", a.Path("state"), "tmpfs", 0, "size=256k"))
		t.Cleanup(func() { must(t, syscall.Unmount(a.Path("state"), syscall.MNT_DETACH)) })
		mail := service(l, 40, "shop/mail", "25", "8025", "tcp")
		mail.Workload = lab.Greeter(t, 0, "{min: 0, idle: 1h}")
		a.Write(t, lab.Config{Services: []lab.Service{mail}})
		a.Run(t)
		a.WaitReady(t, 0)
		fill := func() {
			f, err := os.Create(a.Path("state/ballast"))
			must(t, err)
			defer f.Close()
			for block := make([]byte, 4096); ; {
				if _, err := f.Write(block); err != nil {
					return // full
				}
			}
		}
		status := func(want string, there bool) {
			t.Helper()
			lab.Poll(t, 30*time.Second, func() error {
				if out := a.CLI(t, "status"); strings.Contains(out, want) != there {
					return fmt.Errorf("%q in the status: %v wanted:\n%s", want, there, out)
				}
				return nil
			}, a.Log)
		}
		fill()
		to := vip(lab.V4, 40, 25)
		for range 2 {
			must(t, converse(l.Client, to))
			waitReplicas(t, a, "shop/mail", 1)
			status("no space left on device", true)
			lab.Poll(t, 10*time.Second, func() error { _, err := a.TryCLI("sleep", "shop/mail"); return err }, a.Log)
			waitAsleep(t, a, "shop/mail")
		}
		must(t, converse(l.Client, to))
		was := waitReplicas(t, a, "shop/mail", 1)[0]
		must(t, os.Remove(a.Path("state/ballast")))
		status("no space left on device", false)
		// What was not kept is kept now: the next agent knows that it is awake.
		kept, err := os.ReadFile(a.Path("state/sleep.json"))
		must(t, err)
		if !strings.Contains(string(kept), `"awake": true`) {
			t.Errorf("kept: %s", kept)
		}
		// A start with a full disk serves as well.
		fill()
		a.Kill(t)
		a.Run(t)
		a.WaitReady(t, 0)
		if now := waitReplicas(t, a, "shop/mail", 1)[0]; now.PID != was.PID {
			t.Errorf("the replica was %+v and is %+v", was, now)
		}
		must(t, converse(l.Client, to))
	})
}
