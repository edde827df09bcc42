// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// makeCgroup makes the replica's cgroup, or takes the one that is there.
func makeCgroup(p paths) error {
	for _, dir := range []string{p.cgroups, p.cgroup} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return explain(fmt.Errorf("make cgroup: %w", err))
		}
	}
	return nil
}

// cgroupPIDs lists the processes of the cgroup and those below it.
func cgroupPIDs(dir string) []int {
	var pids []int
	for _, d := range subtree(dir) {
		f, err := os.Open(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			continue // gone meanwhile
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			if pid, err := strconv.Atoi(s.Text()); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		_ = f.Close()
	}
	return pids
}

// subtree lists the directory and all directories in it, deepest last.
func subtree(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

// signalCgroup sends a signal to every process of the cgroup.
func signalCgroup(dir string, sig unix.Signal) {
	for _, pid := range cgroupPIDs(dir) {
		_ = unix.Kill(pid, sig) // gone meanwhile: nothing to do
	}
}

// waitCgroup waits until the cgroup has no process, or ctx ends.
func waitCgroup(ctx context.Context, dir string) bool {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if !populated(dir) {
			return true
		}
		select {
		case <-ctx.Done():
			return !populated(dir)
		case <-time.After(pause):
		}
	}
}

func populated(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return err == nil && strings.Contains(string(b), "populated 1")
}

// killTime bounds the wait for processes that were sent SIGKILL.
const killTime = 5 * time.Second

// killCgroup kills every process of the cgroup and waits until they are gone.
func killCgroup(dir string) error {
	if !populated(dir) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		if waitCgroup(ctx, dir) {
			return nil
		}
	}
	for ctx.Err() == nil { // before 5.14: kill until nobody forks any more
		signalCgroup(dir, unix.SIGKILL)
		round, done := context.WithTimeout(ctx, 20*time.Millisecond)
		empty := waitCgroup(round, dir)
		done()
		if empty {
			return nil
		}
	}
	return fmt.Errorf("kill processes of cgroup %s: %d are still there after %s", dir, cgroupPIDs(dir), killTime)
}

// removeCgroup removes the empty cgroup with all that are in it.
func removeCgroup(dir string) error {
	dirs := subtree(dir)
	slices.Reverse(dirs)
	for _, d := range dirs {
		if err := rmdirSoon(d); err != nil {
			return fmt.Errorf("remove cgroup: %w", err)
		}
	}
	return nil
}

// rmdirSoon removes a cgroup whose last process may still be on its way out.
func rmdirSoon(dir string) error {
	end := time.Now().Add(killTime)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := removeFile(dir)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
		time.Sleep(pause)
	}
}
