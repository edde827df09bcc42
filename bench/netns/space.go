// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// space is a network namespace.
type space struct {
	name  string
	procs []*exec.Cmd
}

func newSpace(name string) (*space, error) {
	if err := command("ip", "netns", "add", name); err != nil {
		return nil, err
	}
	s := &space{name: name}
	if err := s.ip("link set lo up"); err != nil {
		return nil, err
	}
	return s, s.sysctl(map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/ip_local_port_range": "1024 65535", "net/ipv4/tcp_tw_reuse": "1",
		"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0",
	})
}

// ip runs lines of ip commands in the namespace.
func (s *space) ip(lines ...string) error {
	cmd := exec.Command("ip", "-n", s.name, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip in %s: %w\n%s\n%s", s.name, err, strings.Join(lines, "\n"), out)
	}
	return nil
}

func (s *space) sysctl(values map[string]string) error {
	return s.inside(func() error {
		for key, v := range values {
			if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(v), 0); err != nil {
				return fmt.Errorf("set %s in %s: %w", key, s.name, err)
			}
		}
		return nil
	})
}

// inside runs f on a thread in the namespace, which ends with it.
func (s *space) inside(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is spoilt
		result <- s.enter(f)
	}()
	return <-result
}

func (s *space) enter(f func() error) error {
	there, err := os.Open(filepath.Join("/run/netns", s.name))
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w", s.name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", s.name, err)
	}
	return f()
}

// start starts a command in the namespace. What it writes goes to a log named
// after it. It ends with the run at the latest.
func (s *space) start(cmd *exec.Cmd) error {
	log, err := os.Create(s.log(cmd))
	if err != nil {
		return err
	}
	defer log.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	if err := s.inside(cmd.Start); err != nil {
		return fmt.Errorf("start %s in %s: %w", cmd.Path, s.name, err)
	}
	s.procs = append(s.procs, cmd)
	return nil
}

func (s *space) log(cmd *exec.Cmd) string {
	return filepath.Join(dir, s.name+"-"+filepath.Base(cmd.Path)+".log")
}

// said is the end of what the namespace's commands wrote.
func (s *space) said() string {
	var b strings.Builder
	for _, cmd := range s.procs {
		text, _ := os.ReadFile(s.log(cmd))
		if len(text) > 2000 {
			text = text[len(text)-2000:]
		}
		fmt.Fprintf(&b, "%s: %s\n", filepath.Base(cmd.Path), bytes.TrimSpace(text))
	}
	return b.String()
}

// output runs a command in the namespace to its end, at most for the time
// given, and returns its stdout.
func (s *space) output(limit time.Duration, stdin string, env []string, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	if err := s.inside(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", name, s.name, err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, fmt.Errorf("it took more than %s", limit))
		}
		return out.Bytes(), fmt.Errorf("%s in %s: %w\n%s", name, s.name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out.Bytes(), nil
}

// cpu is the CPU time that the processes of the namespace have used.
func (s *space) cpu() time.Duration {
	var total time.Duration
	for _, cmd := range s.procs {
		total += treeCPU(cmd.Process.Pid)
	}
	return total
}

// treeCPU adds up the threads of a process and of its children (proc(5),
// schedstat: nanoseconds first).
func treeCPU(pid int) time.Duration {
	var total time.Duration
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		var ns int64
		text, _ := os.ReadFile(filepath.Join(task, "schedstat"))
		_, _ = fmt.Sscan(string(text), &ns)
		total += time.Duration(ns)
		children, _ := os.ReadFile(filepath.Join(task, "children"))
		for _, child := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				total += treeCPU(n)
			}
		}
	}
	return total
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
