// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
)

// newCgroup makes a cgroup that ends with the test.
func newCgroup(t *testing.T, name string) string {
	t.Helper()
	root, err := CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, fmt.Sprintf("fairlead-test-%d-%s", os.Getpid(), name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	return dir
}

// connects counts the calls of the connect hook when a process in the cgroup
// connects.
func connects(t *testing.T, dir string, c counter) uint64 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	fd, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fd.Close() }()
	before := c.value(t)
	cmd := exec.Command("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(fd.Fd())}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("connect in %s: %v: %s", dir, err, out)
	}
	return c.value(t) - before
}

func TestCgroup(t *testing.T) {
	first, second := newCgroup(t, "first"), newCgroup(t, "second")
	w := newWorld(t)
	c := newCounter(t)
	hooks := func() map[ebpf.AttachType]*ebpf.Program {
		return map[ebpf.AttachType]*ebpf.Program{
			ebpf.AttachCGroupInet4Connect:     hook(t, c, ebpf.AttachCGroupInet4Connect),
			ebpf.AttachCgroupInet4GetPeername: hook(t, c, ebpf.AttachCgroupInet4GetPeername),
			ebpf.AttachCGroupUDP4Recvmsg:      hook(t, c, ebpf.AttachCGroupUDP4Recvmsg),
		}
	}
	w.programs.Cgroup = hooks()
	target := w.start()
	n := node("auto", "auto")
	n.Cgroup = &first
	apply(t, target, state(n))
	path, on, note := target.Cgroup()
	if want := []string{"connect4", "recvmsg4", "getpeername4"}; path != first || note != "" || !slices.Equal(on, want) {
		t.Errorf("Cgroup = %q %v %q, want %q %v", path, on, note, first, want)
	}
	if got := connects(t, first, c); got != 1 {
		t.Errorf("the hook ran %d times for one connect", got)
	}
	if got := connects(t, second, c); got != 0 {
		t.Errorf("the hook ran %d times for another cgroup's connect", got)
	}

	// A new agent: other programs, the same links.
	links := linkIDs(t)
	w.programs.Cgroup = hooks()
	target.Close()
	target = w.start()
	apply(t, target, state(n))
	if got := linkIDs(t); len(got) != len(links) || !containsAll(got, links) {
		t.Errorf("links are %v, were %v", got, links)
	}
	if got := connects(t, first, c); got != 1 {
		t.Errorf("after adoption the hook ran %d times for one connect", got)
	}

	n.Cgroup = &second
	apply(t, target, state(n))
	if a, b := connects(t, first, c), connects(t, second, c); a != 0 || b != 1 {
		t.Errorf("after the move the hook ran %d times in the old, %d in the new cgroup", a, b)
	}
	off := ""
	n.Cgroup = &off
	apply(t, target, state(n))
	if path, on, note := target.Cgroup(); path != "" || len(on) != 0 || note == "" {
		t.Errorf("turned off: %q %v %q", path, on, note)
	}
	if got := connects(t, second, c); got != 0 || len(pinNames(t, w.pins)) != 0 {
		t.Errorf("turned off: the hook ran %d times, pins %v", got, pinNames(t, w.pins))
	}
}

func containsAll[K comparable, V comparable](have, want map[K]V) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// The cgroup that nobody named is the root of the cgroup2 tree.
func TestCgroupRoot(t *testing.T) {
	dir := newCgroup(t, "root")
	w := newWorld(t)
	w.programs.Cgroup = map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachCGroupInet4Connect: hook(t, newCounter(t), ebpf.AttachCGroupInet4Connect),
	}
	target, err := New(Config{Programs: w.programs, PinDir: w.pins, Ifaces: w.ifaces, Hops: w.hops, CgroupRoot: func() (string, error) { return dir, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	n := node("auto", "auto")
	n.Cgroup = nil
	apply(t, target, state(n))
	if path, on, _ := target.Cgroup(); path != dir || len(on) != 1 {
		t.Errorf("Cgroup = %q %v", path, on)
	}
}

func TestCgroupBad(t *testing.T) {
	w := newWorld(t)
	target := w.start()
	n := node("auto", "auto")
	for _, dir := range []string{"/tmp", "/nowhere"} {
		n.Cgroup = &dir
		err := target.Apply(t.Context(), state(n))
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "node.cgroup") {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// A hook that the kernel refuses is told in words; the others work.
func TestHookRefused(t *testing.T) {
	dir := newCgroup(t, "refused")
	w := newWorld(t)
	c := newCounter(t)
	w.programs.Cgroup = map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachCGroupInet4Connect: hook(t, c, ebpf.AttachCGroupInet4Connect),
		// A program loaded for another hook is refused as on a kernel that lacks this one.
		ebpf.AttachCgroupInet4GetPeername: hook(t, c, ebpf.AttachCGroupUDP4Recvmsg),
	}
	target := w.start()
	n := node("auto", "auto")
	n.Cgroup = &dir
	apply(t, target, state(n))
	_, on, note := target.Cgroup()
	if !slices.Equal(on, []string{"connect4"}) || !strings.Contains(note, "getpeername4 is not attached") || !strings.Contains(note, "Linux 5.8") {
		t.Errorf("hooks %v, note %q", on, note)
	}
	if got := connects(t, dir, c); got != 1 {
		t.Errorf("the hook ran %d times for one connect", got)
	}
}
