// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
)

// helperEnv makes the test binary, started again, do one job instead of tests.
const helperEnv = "FAIRLEAD_LAB_HELPER"

var (
	binary string // of fairlead
	labs   atomic.Int32
)

func serial() int { return int(labs.Add(1)) }

// Prefix starts the name of everything that this run makes: flt and the
// process id of the test binary.
func Prefix() string { return prefixOf(os.Getpid()) }

func prefixOf(pid int) string { return fmt.Sprintf("flt%d", pid) }

// baseDir holds the agents' directories and the binary.
func baseDir(prefix string) string { return filepath.Join(os.TempDir(), prefix) }

// Binary is the fairlead under test.
func Binary() string { return binary }

// Main is TestMain: it builds fairlead once (or takes the one FAIRLEAD_BIN
// names), runs the tests and removes what is left of them. Without root it
// skips, in CI it fails.
func Main(m *testing.M) {
	if job := os.Getenv(helperEnv); job != "" {
		os.Exit(help(job))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "test/netns: makes network namespaces and loads BPF programs: run it as root (sudo make test-netns)")
		if os.Getenv("CI") != "" {
			return 1
		}
		fmt.Println("skipped: not root")
		return 0
	}
	sweepDead()
	base := baseDir(Prefix())
	if err := os.MkdirAll(base, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "test/netns:", err)
		return 1
	}
	end, err := startJanitor()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/netns: start janitor:", err)
		return 1
	}
	defer end()
	if err := build(base); err != nil {
		fmt.Fprintln(os.Stderr, "test/netns:", err)
		return 1
	}
	return m.Run()
}

func build(base string) error {
	if binary = os.Getenv("FAIRLEAD_BIN"); binary != "" {
		return nil
	}
	_, file, _, _ := runtime.Caller(0)
	binary = filepath.Join(base, "fairlead")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "./cmd/fairlead")
	cmd.Dir = filepath.Join(filepath.Dir(file), "../../..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build fairlead: %w\n%s", err, out)
	}
	return nil
}

// startJanitor starts a process that outlives this one and sweeps when this
// one has ended, whether by itself, by a panic, a timeout or a signal. end
// lets it sweep and waits.
func startJanitor() (end func(), err error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"=janitor", fmt.Sprintf("FAIRLEAD_LAB_PID=%d", os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		stdin.Close()
		_ = cmd.Wait()
	}, nil
}
