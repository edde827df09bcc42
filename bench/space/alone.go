// SPDX-License-Identifier: Apache-2.0

package space

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dir holds the files of a run, and its logs.
const Dir = "/run/bench"

// aloneEnv is set in the process that Alone starts: to the cgroup, or to "-".
const aloneEnv = "FAIRLEAD_BENCH_ALONE"

// Alone runs this program again as the first process of new network, mount and
// process namespaces, with a /proc of theirs and an empty /run, and returns
// true there. Elsewhere it returns false once that process has ended, with its
// fate. When either ends, however it does, the kernel ends the rest.
//
// With cgroup all that the run puts into cgroup2 is below one directory, which
// is removed afterwards.
func Alone(cgroup bool) (inside bool, err error) {
	if own := os.Getenv(aloneEnv); own != "" {
		return true, privateMounts(own)
	}
	own := "-"
	if cgroup {
		if own, err = newCgroup(); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, removeCgroup(own)) }()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), aloneEnv+"="+own)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	// The child gets a terminal's Ctrl-C too; this process waits for its end.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("make namespaces: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case sig := <-stop:
		_ = cmd.Process.Kill()
		<-done
		return false, fmt.Errorf("stopped by %s", sig)
	}
	if errors.As(err, new(*exec.ExitError)) {
		return false, errors.New("it ended with the error above")
	}
	return false, err
}

func privateMounts(cgroup string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if root := filepath.Dir(cgroup); cgroup != "-" {
		if err := unix.Mount(cgroup, root, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s over %s: %w", cgroup, root, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return os.MkdirAll(Dir, 0o755)
}

// newCgroup makes a cgroup2 directory for the run.
func newCgroup() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 {
			path := filepath.Join(f[4], fmt.Sprintf("fairlead-bench-%d", os.Getpid()))
			return path, os.Mkdir(path, 0o755)
		}
	}
	return "", errors.New("no cgroup2 is mounted: mount it with `mount -t cgroup2 none /sys/fs/cgroup`")
}

// removeCgroup ends what is still in the directory and removes it with all
// below it.
func removeCgroup(path string) error {
	_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var dirs []string
		_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		slices.Reverse(dirs)
		var errs []error
		for _, d := range dirs {
			errs = append(errs, os.Remove(d))
		}
		if err := errors.Join(errs...); err == nil || time.Now().After(end) {
			return err
		}
	}
}
