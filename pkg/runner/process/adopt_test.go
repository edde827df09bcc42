// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/activator"
)

// runAgent is an agent with one replica, which says so once it is ready.
func runAgent() error {
	r, err := New(testConfig(os.Getenv(dirVar)))
	if err != nil {
		return err
	}
	if err := r.Apply(context.Background(), []activator.Spec{echoSpec(8090, ":8090")}); err != nil {
		return err
	}
	return r.Run(context.Background(), func() {
		if all := r.Replicas(); len(all) == 1 && isReady(all[0]) {
			fmt.Println("ready", all[0].PID)
		}
	})
}

// killedAgent leaves the replica of an agent that was killed; its PID.
func killedAgent(t *testing.T, dir string) (pid int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+roleAgent, dirVar+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(out); s.Scan(); {
		if _, err := fmt.Sscanf(s.Text(), "ready %d", &pid); err == nil {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if pid == 0 {
		t.Fatal("the agent ended without a ready replica")
	}
	return pid
}

func TestReplicaOutlivesItsAgent(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	check := unchanged(t, cfg)
	pid := killedAgent(t, dir)

	b := start(t, cfg)
	rep := b.one("adopted replica", func(activator.Replica) bool { return true })
	if rep.PID != pid || !isReady(rep) {
		t.Errorf("adopted %+v, want process %d, ready at once", rep, pid)
	}
	fetch(t, rep.Addr4, 8090)
	b.apply(echoSpec(8090, ":8090"))
	fetch(t, rep.Addr6, 8090)
	b.abandon()
	for _, rep := range b.replicas { // as if that agent had ended
		rep.proc.close()
		rep.proc = nil
	}

	b = start(t, cfg)
	b.apply(echoSpec(8090, ":8090"))
	if rep := b.one("adopted again", isReady); rep.PID != pid {
		t.Errorf("process %d, want %d", rep.PID, pid)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.one("restarted replica", func(rep activator.Replica) bool {
		return isReady(rep) && rep.PID != pid && rep.Addr4.String() == "10.66.0.2"
	})
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestReplicaThatEndedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	pid := killedAgent(t, dir)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil { // this is its init process
		t.Fatal(err)
	}
	b := start(t, testConfig(dir))
	b.one("adopted replica", says("ended while no agent ran"))
	b.apply(echoSpec(8090, ":8090"))
	if rep := b.one("ready replica", isReady); rep.ID != "shop.web.1" {
		t.Errorf("it is %s", rep.ID)
	}
}

func TestLostMountIsMended(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	pid := killedAgent(t, dir)
	p := pathsOf(cfg.RunDir, cfg.Cgroup, "shop.web.1")
	if err := unpinNetns(p.netns); err != nil {
		t.Fatal(err)
	}
	b := start(t, cfg)
	rep := b.one("adopted replica", isReady)
	if rep.PID != pid || !sameNetns(pid, p.netns) {
		t.Errorf("adopted %+v; namespace mended: %v", rep, sameNetns(pid, p.netns))
	}
	fetch(t, rep.Addr4, 8090)
}

func TestCorruptRecordIsRemovedWhole(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	check := unchanged(t, cfg)
	killedAgent(t, dir)
	record := filepath.Join(cfg.RunDir, "replicas", "shop.web.1.json")
	if err := os.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, cfg)
	b.await("adoption", func(all []activator.Replica) bool {
		_, err := os.Stat(record)
		return len(all) == 0 && os.IsNotExist(err)
	})
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	check()
}

func TestForeignProcessesAreLeftAlone(t *testing.T) {
	cfg := testConfig(t.TempDir())
	p := pathsOf(cfg.RunDir, cfg.Cgroup, "shop.web.1")
	if err := makeCgroup(p); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := removeCgroup(p.cgroup); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(p.cgroup, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	b := start(t, cfg)
	b.apply(echoSpec(8090, ":8090"))
	b.one("reason", says("another agent runs this service"))
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.Signal(0)); err != nil || !populated(p.cgroup) {
		t.Errorf("the foreign process is gone: %v", err)
	}
}

func TestAgentsSideBySide(t *testing.T) {
	first, second := testConfig(t.TempDir()), testConfig(t.TempDir())
	second.Network = func() (v4, v6 netip.Prefix) { return netip.MustParsePrefix("10.67.0.0/24"), netip.Prefix{} }
	a, b := start(t, first), start(t, second)
	a.apply(echoSpec(8090, ":8090"))
	b.apply(echoSpec(8090, ":8090"))
	one := a.one("ready replica", isReady)
	two := b.one("ready replica", isReady)
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := a.Replicas()[0]; now.PID != one.PID || !isReady(now) || one.Addr4 == two.Addr4 {
		t.Errorf("the first agent's replica is %+v", now)
	}
	fetch(t, one.Addr4, 8090)
}

func TestCleanup(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	check := unchanged(t, cfg)
	pid := killedAgent(t, dir)
	p := pathsOf(cfg.RunDir, cfg.Cgroup, "shop.web.1")
	removed, err := Cleanup(cfg.RunDir, cfg.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("processes [%d]\nlink %s\nnetwork namespace %s\ncgroup %s", pid, p.link, p.netns, p.cgroup)
	if got := strings.Join(removed, "\n"); got != want {
		t.Errorf("removed:\n%s\nwant:\n%s", got, want)
	}
	check()
	if removed, err := Cleanup(cfg.RunDir, cfg.Cgroup); err != nil || len(removed) > 0 {
		t.Errorf("second time: %q, %v", removed, err)
	}
}
