// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/echo"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// The test binary plays several parts, told by this variable.
const (
	roleVar    = "FAIRLEAD_TEST_ROLE"
	roleInner  = "tests" // the tests, in namespaces of their own
	roleAgent  = "agent" // an agent to be killed
	roleEcho   = "echo"  // a replica
	cgroupVar  = "FAIRLEAD_TEST_CGROUP"
	listenVar  = "FAIRLEAD_TEST_LISTEN"
	listenUDP  = "FAIRLEAD_TEST_UDP"
	dirVar     = "FAIRLEAD_TEST_DIR"
	needsRoot  = "the tests of this package make network namespaces and cgroups: run them as root"
	innerFlags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVar) {
	case roleEcho:
		err = runEcho()
	case roleAgent:
		err = runAgent()
	case roleInner:
		if err = isolate(); err == nil {
			goleak.VerifyTestMain(m)
		}
	default:
		os.Exit(outer())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// outer runs the tests in network, mount and PID namespaces of their own: all
// that a failing test leaves ends with them. The cgroup is removed here.
func outer() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, needsRoot)
		if os.Getenv("CI") != "" {
			return 1
		}
		return 0
	}
	root, err := listen.Cgroup2()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cgroup := filepath.Join(root, fmt.Sprintf("fairlead-test-%d", os.Getpid()))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := errors.Join(killCgroup(cgroup), removeCgroup(cgroup)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	runtime.LockOSThread() // Pdeathsig is about this thread
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVar+"="+roleInner, cgroupVar+"="+cgroup)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: innerFlags, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func isolate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	return forgetOthers()
}

// forgetOthers unmounts, here alone, the namespaces and BPF file systems of
// agents and tests on this machine: they go whenever those end, and tests here
// compare mounts.
func forgetOthers() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		about, kind, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(kind, "nsfs ") && !strings.HasPrefix(kind, "bpf ") {
			continue
		}
		err := unix.Unmount(strings.Fields(about)[4], unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // gone meanwhile
			return err
		}
	}
	return nil
}

func runEcho() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	return echo.Run(ctx, echo.Config{
		HTTP: strings.Fields(os.Getenv(listenVar)), UDP: strings.Fields(os.Getenv(listenUDP)), Out: os.Stdout,
	})
}
