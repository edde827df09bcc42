// SPDX-License-Identifier: Apache-2.0

// Package space is what benchmarks run in: namespaces of their own with an
// empty /run, and in these network namespaces by name with processes in them.
// All of it ends with the benchmark. It needs root and iproute2.
package space

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

// Space is a network namespace.
type Space struct {
	Name  string
	Procs []*exec.Cmd // those of Start
}

// New makes a namespace whose loopback is up and which forwards.
func New(name string) (*Space, error) {
	if err := command("ip", "netns", "add", name); err != nil {
		return nil, err
	}
	s := &Space{Name: name}
	if err := s.IP("link set lo up"); err != nil {
		return nil, err
	}
	return s, s.Sysctl(map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/ip_local_port_range": "1024 65535", "net/ipv4/tcp_tw_reuse": "1",
		"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0",
	})
}

// IP runs lines of ip commands in the namespace.
func (s *Space) IP(lines ...string) error {
	cmd := exec.Command("ip", "-n", s.Name, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip in %s: %w\n%s\n%s", s.Name, err, strings.Join(lines, "\n"), out)
	}
	return nil
}

// Sysctl writes values below /proc/sys.
func (s *Space) Sysctl(values map[string]string) error {
	return s.Inside(func() error {
		for key, v := range values {
			if err := os.WriteFile(filepath.Join("/proc/sys", key), []byte(v), 0); err != nil {
				return fmt.Errorf("set %s in %s: %w", key, s.Name, err)
			}
		}
		return nil
	})
}

// Inside runs f on a thread in the namespace, which ends with it.
func (s *Space) Inside(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is spoilt
		result <- s.enter(f)
	}()
	return <-result
}

func (s *Space) enter(f func() error) error {
	there, err := os.Open(filepath.Join("/run/netns", s.Name))
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w", s.Name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", s.Name, err)
	}
	return f()
}

// Start starts a command in the namespace. What it writes goes to a log named
// after it. It ends with the run at the latest.
func (s *Space) Start(cmd *exec.Cmd) error {
	log, err := os.Create(s.log(cmd))
	if err != nil {
		return err
	}
	defer log.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	if err := s.Inside(cmd.Start); err != nil {
		return fmt.Errorf("start %s in %s: %w", cmd.Path, s.Name, err)
	}
	s.Procs = append(s.Procs, cmd)
	return nil
}

func (s *Space) log(cmd *exec.Cmd) string {
	return filepath.Join(Dir, s.Name+"-"+filepath.Base(cmd.Path)+".log")
}

// Said is the end of what the namespace's commands wrote.
func (s *Space) Said() string {
	var b strings.Builder
	for _, cmd := range s.Procs {
		text, _ := os.ReadFile(s.log(cmd))
		if len(text) > 2000 {
			text = text[len(text)-2000:]
		}
		fmt.Fprintf(&b, "%s: %s\n", filepath.Base(cmd.Path), bytes.TrimSpace(text))
	}
	return b.String()
}

// Output runs a command in the namespace to its end, at most for the time
// given, and returns its stdout.
func (s *Space) Output(limit time.Duration, stdin string, env []string, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	if err := s.Inside(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", name, s.Name, err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(err, fmt.Errorf("it took more than %s", limit))
		}
		return out.Bytes(), fmt.Errorf("%s in %s: %w\n%s", name, s.Name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out.Bytes(), nil
}

// CPU is the CPU time that the processes of the namespace have used.
func (s *Space) CPU() time.Duration {
	var total time.Duration
	for _, cmd := range s.Procs {
		total += TreeCPU(cmd.Process.Pid)
	}
	return total
}

// TreeCPU adds up the threads of a process and of its children (proc(5),
// schedstat: nanoseconds first).
func TreeCPU(pid int) time.Duration {
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
				total += TreeCPU(n)
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
