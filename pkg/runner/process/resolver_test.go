// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/activator"
)

// Replicas see fairlead's resolv.conf, and its changes; the host does not.
func TestA07ReplicasUseTheNameServer(t *testing.T) {
	// A file of the tests' own stands for the host's: they live in a mount
	// namespace of their own.
	host := filepath.Join(t.TempDir(), "host.conf")
	const hostText = "nameserver 192.0.2.53\n"
	if err := os.WriteFile(host, []byte(hostText), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(host, hostResolvConf, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("stand in for %s: %v", hostResolvConf, err)
	}
	defer func() { _ = unix.Unmount(hostResolvConf, unix.MNT_DETACH) }()
	var text atomic.Pointer[string]
	set := func(s string) { text.Store(&s) }
	set("")
	cfg := testConfig(t.TempDir())
	cfg.Resolver = func() string { return *text.Load() }
	b := start(t, cfg)
	spec := shell("while :; do head -n 1 /etc/resolv.conf; sleep 0.05; done")
	// said is the last line of the replica's log.
	said := func(rep activator.Replica) string {
		log, _ := os.ReadFile(rep.Log)
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		return lines[len(lines)-1]
	}
	await := func(want string) activator.Replica {
		t.Helper()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			for _, rep := range b.Replicas() {
				if rep.PID != 0 && rep.Phase != activator.Stopping && said(rep) == want {
					return rep
				}
			}
		}
		t.Fatalf("no replica says %q; there is %+v", want, b.Replicas())
		return activator.Replica{}
	}
	b.apply(spec)
	first := await("nameserver 192.0.2.53")

	set("nameserver 198.18.0.1\n")
	b.apply(spec)
	second := await("nameserver 198.18.0.1")
	if second.PID == first.PID {
		t.Error("the replica that saw the host's file was not replaced")
	}
	set("nameserver 198.18.0.2\n")
	b.apply(spec)
	if third := await("nameserver 198.18.0.2"); third.PID != second.PID {
		t.Error("a change of the text replaced the replica")
	}
	if got, err := os.ReadFile(hostResolvConf); err != nil || string(got) != hostText {
		t.Errorf("the host's file is %q, %v", got, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), cfg.RunDir+"/resolv.conf") {
		t.Errorf("the mount is the host's, too: %v", err)
	}
	threadsAtHome(t)

	// Another agent takes over; the file goes with the last replica.
	b.abandon()
	b = start(t, cfg)
	b.apply(spec)
	if again := await("nameserver 198.18.0.2"); again.PID != second.PID {
		t.Error("the replica was replaced by the next agent")
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(cfg.RunDir); err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", cfg.RunDir, left, err)
	}
}
