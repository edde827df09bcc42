// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

func TestReplicaServesTheHost(t *testing.T) {
	cfg := testConfig(t.TempDir())
	check := unchanged(t, cfg)
	b := start(t, cfg)
	b.apply(echoSpec(8090, ":8090"))
	rep := b.one("ready replica", isReady)
	for _, addr := range []netip.Addr{rep.Addr4, rep.Addr6} {
		if body := fetch(t, addr, 8090); !strings.Contains(body, "name:     shop.web.1\n") {
			t.Errorf("%s answers %q", addr, body)
		}
	}
	if want := netip.MustParseAddr("10.66.0.2"); rep.Addr4 != want {
		t.Errorf("address %s, want %s", rep.Addr4, want)
	}
	if log, err := os.ReadFile(rep.Log); err != nil || !strings.Contains(string(log), "http on [::]:8090") {
		t.Errorf("log %q, %v", log, err)
	}
	checkHostSide(t, cfg, rep)
	threadsAtHome(t)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	check()
	if _, err := os.Stat(rep.Log); err != nil {
		t.Errorf("the log is gone: %v", err)
	}
}

func checkHostSide(t *testing.T, cfg Config, rep activator.Replica) {
	t.Helper()
	p := pathsOf(cfg.RunDir, cfg.Cgroup, rep.ID)
	for path, want := range map[string]string{
		"ipv4/conf/" + p.link + "/forwarding":    "1",
		"ipv4/conf/" + p.link + "/rp_filter":     "0",
		"ipv6/conf/" + p.link + "/forwarding":    "1",
		"ipv6/conf/" + p.link + "/accept_ra":     "0",
		"ipv6/conf/" + p.link + "/addr_gen_mode": "1",
		"ipv4/ip_forward":                        "0",
		"ipv6/conf/all/forwarding":               "0",
	} {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net", path))
		if got := strings.TrimSpace(string(b)); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %s", path, got, err, want)
		}
	}
	if on, err := groOn(p.link); err != nil || !on {
		t.Errorf("GRO of %s is %v, %v", p.link, on, err)
	}
	err := within(p.netns, func() error {
		on, err := groOn(inside)
		if err == nil && !on {
			err = fmt.Errorf("GRO of %s is off", inside)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if pids := cgroupPIDs(p.cgroup); !slices.Equal(pids, []int{rep.PID}) {
		t.Errorf("cgroup has %v, want %d", pids, rep.PID)
	}
}

// threadsAtHome fails when a thread is in another namespace than the process.
func threadsAtHome(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"net", "mnt"} {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		home, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if ns, err := os.Readlink(task); err == nil && ns != home {
				t.Errorf("%s is %s, want %s", task, ns, home)
			}
		}
	}
}

func TestEndedReplicaComesBack(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.BackoffMin = 20 * time.Millisecond
	b := start(t, cfg)
	b.apply(shell("echo good; echo 'cannot find\tit' >&2; exit 3"))
	rep := b.one("backoff", func(rep activator.Replica) bool { return rep.Phase == activator.Backoff && rep.Restarts == 3 })
	if want := "exit status 3: cannot find·it"; rep.Reason != want {
		t.Errorf("reason %q, want %q", rep.Reason, want)
	}
	if wait := rep.Next.Sub(rep.Since).Round(time.Millisecond); wait != 80*time.Millisecond {
		t.Errorf("third wait is %s, want 80ms", wait)
	}
	b.apply(echoSpec(8090, ":8090"))
	ready := b.one("ready replica", isReady)
	if err := unix.Kill(ready.PID, unix.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	b.one("second start", func(rep activator.Replica) bool { return isReady(rep) && rep.PID != ready.PID })
}

func TestSignalIsNamed(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	b.apply(shell("kill -ABRT $$"))
	b.one("reason", says("killed by SIGABRT"))
}

func TestMissingProgramIsNamed(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	s := shell("")
	s.Workload.Command = []string{"no-such-program"}
	b.apply(s)
	b.one("reason", says("no-such-program: no such program in /usr/local/sbin"))
}

func TestChildrenEndWithTheirReplica(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.BackoffMin = time.Hour
	b := start(t, cfg)
	b.apply(shell("sleep 1000 & exit 1"))
	rep := b.one("backoff", func(rep activator.Replica) bool { return rep.Phase == activator.Backoff })
	if pids := cgroupPIDs(pathsOf(cfg.RunDir, cfg.Cgroup, rep.ID).cgroup); len(pids) > 0 {
		t.Errorf("processes %v are left", pids)
	}
}

func TestReasonWhyNotReady(t *testing.T) {
	for _, tc := range []struct {
		name, reason string
		spec         activator.Spec
	}{
		{"nothing", "nothing listens on 8090 yet", shell("sleep 1000")},
		{"wrong port", "nothing listens on 8090 yet; it listens on [::]:8080", echoSpec(8090, ":8080")},
		{"loopback", "it listens on 127.0.0.1:8090 only, which nobody outside", echoSpec(8090, "127.0.0.1:8090")},
		{"late", "not ready within the startTimeout of 50ms: nothing", func() activator.Spec {
			s := shell("sleep 1000")
			s.Workload.Scale.StartTimeout = 50 * time.Millisecond
			return s
		}()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := start(t, testConfig(t.TempDir()))
			b.apply(tc.spec)
			rep := b.one("reason", says(tc.reason))
			if rep.Phase != activator.Starting {
				t.Errorf("phase %s, want starting", rep.Phase)
			}
		})
	}
}

func TestUDPReplicaIsReady(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	s := echoSpec(5353, "")
	s.Ports[0].Protocol = model.UDP
	s.Workload.Env[listenUDP] = ":5353"
	b.apply(s)
	b.one("ready replica", isReady)
}

func TestChangedSpecAddsBeforeItDeletes(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	s := echoSpec(8090, ":8090")
	s.Drain = time.Minute
	b.apply(s)
	old := b.one("ready replica", isReady)

	s.Workload.Env = map[string]string{roleVar: roleEcho, listenVar: ":8090", "NEW": "1"}
	b.apply(s)
	both := b.await("new replica", func(all []activator.Replica) bool {
		i := slices.IndexFunc(all, func(r activator.Replica) bool { return r.ID == "shop.web.2" })
		if old := slices.IndexFunc(all, func(r activator.Replica) bool { return r.ID == "shop.web.1" && isReady(r) }); old < 0 &&
			(i < 0 || !isReady(all[i])) {
			t.Fatalf("nobody is ready: %+v", all)
		}
		return i >= 0 && isReady(all[i])
	})
	if len(both) != 2 || both[0].PID != old.PID {
		t.Errorf("the old one went before the new one was ready: %+v", both)
	}
	fetch(t, old.Addr4, 8090) // stays for those who have not noticed yet
	b.one("new replica alone", func(rep activator.Replica) bool { return rep.ID == "shop.web.2" && isReady(rep) })

	s.Workload.Env = map[string]string{roleVar: roleEcho, listenVar: ":8090", "NEW": "2"} // what was applied stays as it is
	b.apply(s)
	b.one("third replica", func(rep activator.Replica) bool { return rep.ID == "shop.web.1" && isReady(rep) && rep.PID != old.PID })
}

func TestBrokenSpecKeepsTheOldReplica(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	b.apply(echoSpec(8090, ":8090"))
	old := b.one("ready replica", isReady)
	b.apply(shell("exit 1"))
	b.await("failing replica", func(all []activator.Replica) bool {
		return len(all) == 2 && all[1].Phase == activator.Backoff && all[1].Restarts > 1
	})
	if now := b.Replicas()[0]; now.PID != old.PID || !isReady(now) {
		t.Errorf("the old replica is %+v", now)
	}
	if err := b.Apply(t.Context(), []activator.Spec{{Service: shop, Replicas: 1}}); err == nil ||
		!strings.Contains(err.Error(), "service shop/web: workload.command is empty") {
		t.Errorf("error %v", err)
	}
}

func TestScale(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	s := echoSpec(8090, ":8090")
	s.Replicas = 3
	b.apply(s)
	ready := func(n int) func([]activator.Replica) bool {
		return func(all []activator.Replica) bool {
			return len(all) == n && !slices.ContainsFunc(all, func(r activator.Replica) bool { return !isReady(r) })
		}
	}
	all := b.await("three replicas", ready(3))
	for _, rep := range all {
		fetch(t, rep.Addr4, 8090)
	}
	s.Replicas = 1
	b.apply(s)
	slices.SortFunc(all, func(x, y activator.Replica) int { return x.Started.Compare(y.Started) })
	last := all[len(all)-1]
	if left := b.await("one replica", ready(1)); left[0].PID != last.PID {
		t.Errorf("left %+v, want the one that was started last, %+v", left, last)
	}
	fetch(t, last.Addr4, 8090)
	fetch(t, last.Addr6, 8090)
	b.apply()
	b.await("no replica", func(all []activator.Replica) bool { return len(all) == 0 })
}

func TestNewPrefixMovesReplicas(t *testing.T) {
	cfg := testConfig(t.TempDir())
	var v4 atomic.Pointer[netip.Prefix]
	use := func(p netip.Prefix) { v4.Store(&p) }
	use(prefix4)
	cfg.Network = func() (netip.Prefix, netip.Prefix) { return *v4.Load(), netip.Prefix{} }
	b := start(t, cfg)
	b.apply(echoSpec(8090, ":8090"))
	old := b.one("ready replica", isReady)
	use(netip.Prefix{}) // unknown for a while
	b.apply(echoSpec(8090, ":8090"))
	use(netip.MustParsePrefix("10.67.0.0/24"))
	b.apply(echoSpec(8090, ":8090"))
	rep := b.one("moved replica", func(rep activator.Replica) bool { return isReady(rep) && rep.ID != old.ID })
	if want := "10.67.0.2"; rep.Addr4.String() != want {
		t.Errorf("address %s, want %s", rep.Addr4, want)
	}
	fetch(t, rep.Addr4, 8090)
}

func TestShutdownKillsTheStubborn(t *testing.T) {
	cfg := testConfig(t.TempDir())
	check := unchanged(t, cfg)
	b := start(t, cfg)
	b.apply(shell(`trap "" TERM; echo up; while :; do sleep 0.05; done`))
	b.one("its trap", func(rep activator.Replica) bool {
		log, _ := os.ReadFile(rep.Log)
		return strings.Contains(string(log), "up") || poked(b)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := b.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 200*time.Millisecond || took > 5*time.Second {
		t.Errorf("took %s", took)
	}
	check()
}

// poked has the next look happen soon; it is false.
func poked(b *bench) bool {
	time.AfterFunc(10*time.Millisecond, func() {
		select {
		case b.changed <- struct{}{}:
		default:
		}
	})
	return false
}

func TestHostWithoutIPv6(t *testing.T) {
	const path = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(path, []byte("0"), 0) })
	b := start(t, testConfig(t.TempDir()))
	b.apply(echoSpec(8090, ":8090"))
	rep := b.one("ready replica", isReady)
	if rep.Addr6.IsValid() {
		t.Errorf("it has %s", rep.Addr6)
	}
	fetch(t, rep.Addr4, 8090)
}

// TestD04Port: a program that does not open the port it was told is reached at
// the one that it opens, if nobody wrote which one; also by the next agent.
func TestD04Port(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	spec := echoSpec(80, "127.0.0.1:7000 :9000")
	spec.AnyPort = true
	b.apply(spec)
	rep := b.one("ready replica", isReady)
	if rep.Port != 9000 {
		t.Errorf("port %d, want 9000", rep.Port)
	}
	fetch(t, rep.Addr4, rep.Port)
	b.abandon()
	again := start(t, cfg)
	again.apply(spec)
	if next := again.one("adopted replica", isReady); next.Port != 9000 || next.PID != rep.PID {
		t.Errorf("adopted %+v, want port 9000 of process %d", next, rep.PID)
	}
}
