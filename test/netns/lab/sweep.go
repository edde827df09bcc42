// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// janitor waits for its parent to end and removes what it left.
func janitor() int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	pid, err := strconv.Atoi(os.Getenv("FAIRLEAD_LAB_PID"))
	if err != nil {
		return 2
	}
	sweep(prefixOf(pid))
	return 0
}

var prefixed = regexp.MustCompile(`^flt([0-9]+)(-|$)`)

// sweepDead removes what earlier runs left whose janitor did not live either.
func sweepDead() {
	seen := map[int]bool{}
	for _, pattern := range []string{"/run/netns/flt*", filepath.Join(os.TempDir(), "flt*"), filepath.Join(CgroupRoot(), "flt*")} {
		paths, _ := filepath.Glob(pattern)
		for _, p := range paths {
			if m := prefixed.FindStringSubmatch(filepath.Base(p)); m != nil {
				pid, _ := strconv.Atoi(m[1])
				seen[pid] = true
			}
		}
	}
	for pid := range seen {
		if pid > 0 && pid != os.Getpid() && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			sweep(prefixOf(pid))
		}
	}
}

// sweep removes everything that carries the prefix.
func sweep(prefix string) {
	base := baseDir(prefix)
	for _, ns := range named("/run/netns", prefix) {
		killAll(netnsPIDs(ns))
	}
	for _, cg := range named(CgroupRoot(), prefix) {
		killAll(cgroupPIDs(filepath.Join(CgroupRoot(), cg)))
	}
	dirs, _ := filepath.Glob(filepath.Join(base, "agent-*"))
	for _, d := range dirs {
		detachDir(d)
	}
	for _, ns := range named("/run/netns", prefix) {
		removeNetns(ns)
	}
	for _, cg := range named(CgroupRoot(), prefix) {
		removeCgroup(filepath.Join(CgroupRoot(), cg))
	}
	unmountBelow(base)
	_ = os.RemoveAll(base)
}

func named(dir, prefix string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix+"-") {
			names = append(names, e.Name())
		}
	}
	return names
}

// detachDir has fairlead remove what the agent of a directory left.
func detachDir(dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience(30*time.Second))
	defer cancel()
	bin, err := os.Readlink(filepath.Join(dir, "binary"))
	if err != nil {
		return
	}
	args := []string{bin, "detach", "--run", filepath.Join(dir, "run")}
	if ns, err := os.Readlink(filepath.Join(dir, "netns")); err == nil {
		if _, err := os.Stat(ns); err == nil {
			args = append([]string{"nsenter", "--net=" + ns}, args...)
		}
	}
	_ = exec.CommandContext(ctx, args[0], args[1:]...).Run()
}

func removeNetns(name string) {
	killAll(netnsPIDs(name))
	_ = exec.Command("ip", "netns", "delete", name).Run()
}

func netnsPIDs(name string) []int {
	out, _ := exec.Command("ip", "netns", "pids", name).Output()
	return numbers(string(out))
}

func cgroupPIDs(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			pids = append(pids, numbers(string(procs))...)
		}
		return nil
	})
	return pids
}

func numbers(s string) []int {
	var ns []int
	for _, f := range strings.Fields(s) {
		if n, err := strconv.Atoi(f); err == nil {
			ns = append(ns, n)
		}
	}
	return ns
}

// killAll kills the processes and waits a little for them to be gone.
func killAll(pids []int) {
	pids = slices.DeleteFunc(pids, func(pid int) bool { return pid <= 1 || pid == os.Getpid() })
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	deadline := time.Now().Add(Patience(3 * time.Second))
	for _, pid := range pids {
		for Alive(pid) && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// Alive tells whether the process runs; a zombie does not.
func Alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// CgroupRoot is where cgroup2 is mounted; empty: nowhere.
func CgroupRoot() string {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}

func removeCgroup(dir string) {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, d := range slices.Backward(dirs) {
		_ = syscall.Rmdir(d)
	}
}

func unmountBelow(dir string) {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	var points []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && strings.HasPrefix(f[1], dir+"/") {
			points = append(points, f[1])
		}
	}
	for _, p := range slices.Backward(points) {
		_ = syscall.Unmount(p, syscall.MNT_DETACH)
	}
}
