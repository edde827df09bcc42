// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestW08EveryWatcherHears: two drivers watch a cgroup each; no listen is told
// to the wrong one alone, whichever closes first.
func TestW08EveryWatcherHears(t *testing.T) {
	o := open(t, Config{Services: 64, Backends: 64, Slots: 1024, Flows: 1024, Embryos: 1024})
	dirs := [2]string{cgroup(t, "a"), cgroup(t, "b")}
	var heard [2]chan struct{}
	var watches [2]io.Closer
	for i, dir := range dirs {
		heard[i] = make(chan struct{}, 100)
		w, err := o.WatchListens(dir, func(Listen) { heard[i] <- struct{}{} })
		if err != nil {
			t.Fatal(err)
		}
		watches[i] = w
	}
	hears := func(i int) {
		t.Helper()
		for len(heard[i]) > 0 {
			<-heard[i]
		}
		for n := range 10 {
			listenIn(t, dirs[i])
			select {
			case <-heard[i]:
			case <-time.After(10 * time.Second):
				t.Fatalf("listen %d in %s was told to nobody who watches it", n, dirs[i])
			}
		}
	}
	hears(0)
	hears(1)
	if err := watches[0].Close(); err != nil {
		t.Error(err)
	}
	hears(1)
	if err := watches[1].Close(); err != nil {
		t.Error(err)
	}
	if w, err := o.WatchListens(filepath.Join(dirs[0], "none"), func(Listen) {}); err == nil {
		_ = w.Close()
		t.Error("a cgroup that is not there is watched")
	}
}

// cgroup makes a cgroup2 directory for the test.
func cgroup(t *testing.T, name string) string {
	t.Helper()
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mounts.Close() }()
	for s := bufio.NewScanner(mounts); s.Scan(); {
		about, kind, _ := strings.Cut(s.Text(), " - ")
		if strings.HasPrefix(kind, "cgroup2 ") {
			dir := filepath.Join(strings.Fields(about)[4], fmt.Sprintf("fairlead-test-%d-%s", os.Getpid(), name))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			})
			return dir
		}
	}
	t.Fatal("no cgroup2 is mounted here")
	return ""
}

// listenOnce is set for the process that listenIn starts.
const listenOnce = "FAIRLEAD_TEST_LISTEN_ONCE"

func TestListenOnce(t *testing.T) {
	if os.Getenv(listenOnce) == "" {
		return // it is no test but what listenIn runs
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// listenIn has a process of the cgroup listen once, and waits for its end.
func listenIn(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command(os.Args[0], "-test.run=^TestListenOnce$")
	cmd.Env = append(os.Environ(), listenOnce+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("listen in %s: %v: %s", dir, err, out)
	}
}
