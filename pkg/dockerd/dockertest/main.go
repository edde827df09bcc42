// SPDX-License-Identifier: Apache-2.0

package dockertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/runner/rollout"
)

// cgroupVar tells the inner processes of Main that they are, and their cgroup.
const cgroupVar = "FAIRLEAD_DOCKERTEST_CGROUP"

// Main runs the tests by run in network, mount and PID namespaces of their own:
// daemons and containers that a failing test leaves end with them. The cgroups
// are removed here. It does not return in the outer process.
func Main(run func()) {
	switch {
	case os.Getenv(cgroupVar) == "":
		os.Exit(outer())
	case os.Getpid() == 1:
		code, err := initProcess()
		if err != nil {
			fmt.Fprintln(os.Stderr, "dockertest:", err)
		}
		os.Exit(code)
	}
	run()
}

// initProcess runs the tests and buries the dead whose parent is gone, as the
// first process of a PID namespace must: a daemon that was killed would seem to
// live.
func initProcess() (code int, err error) {
	if err := isolate(); err != nil {
		return 1, err
	}
	tests, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 1, err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, err
		case pid == tests.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == tests.Pid:
			return 1, fmt.Errorf("the tests were killed by %s", status.Signal())
		}
	}
}

// agentDir is RunDir within the temporary directory.
const agentDir = "run"

// RunDir is the run directory for an agent under test; Main removes the cgroups
// that one of it may leave.
func RunDir() string { return filepath.Join(os.TempDir(), agentDir) }

// Cgroup is the cgroup for the containers of these tests: "/NAME".
func Cgroup() string { return os.Getenv(cgroupVar) }

func outer() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests run a Docker daemon: run them as root (sudo make test)")
		return 1
	}
	signal.Ignore(os.Interrupt)        // the whole foreground group gets it; the child reports it
	dir, err := os.MkdirTemp("", "fl") // short: the path of a socket has 107 bytes at most
	if err != nil {
		fmt.Fprintln(os.Stderr, "dockertest:", err)
		return 1
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "dockertest:", err)
		}
	}()
	cgroup := CgroupName(os.Getpid())
	defer func() {
		agent := "/" + rollout.Owner(filepath.Join(dir, agentDir, "workloads"))
		for _, name := range []string{cgroup, agent, agent + "-docker"} {
			if err := RemoveCgroups(name); err != nil {
				fmt.Fprintln(os.Stderr, "dockertest:", err)
			}
		}
	}()
	runtime.LockOSThread() // Pdeathsig is about this thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), cgroupVar+"="+cgroup, "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "dockertest:", err)
	return 1
}

func isolate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}
