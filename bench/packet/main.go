// SPDX-License-Identifier: Apache-2.0

// Packet measures nanoseconds per packet of fairlead's XDP and TC programs
// beside a bare XDP_TX, one hash lookup and one LRU lookup, all in one run;
// and how long the control plane takes to fill, change and adopt the maps. It
// needs root. It runs in a network namespace of its own and attaches nothing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/bench/report"
)

const childEnv = "FAIRLEAD_BENCH_PACKET_NS"

// config is what a run may be told.
type config struct {
	rounds   int
	sample   time.Duration
	services int
	flows    string
	only     string
	patience time.Duration
	out      string
	record   string
	revision string
}

func main() {
	cfg := config{}
	flag.IntVar(&cfg.rounds, "rounds", 9, "interleaved rounds, of which the median counts; more where others disturb them")
	flag.DurationVar(&cfg.sample, "sample", 10*time.Millisecond, "length of one measurement")
	flag.IntVar(&cfg.services, "services", 100_000, "services of the large world, each with 10 backends")
	flag.StringVar(&cfg.flows, "flows", "1,65536,524288", "live flows, powers of two")
	flag.StringVar(&cfg.only, "only", "", "run these parts only, of one,six,replies,new,affinity,full-nat,udp,churn,many,control")
	flag.DurationVar(&cfg.patience, "patience", 5*time.Minute, "longest fill of the maps that is waited for")
	flag.StringVar(&cfg.out, "out", "bench/out/packet.json", "where the figures go")
	flag.StringVar(&cfg.revision, "revision", "unknown", "what is measured, for the record")
	flag.StringVar(&cfg.record, "record", "", "also write packet-DATE-REVISION.md and .json into this directory")
	flag.Parse()
	if err := run(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "bench-packet:", err)
		os.Exit(1)
	}
}

func run(cfg config) error {
	if os.Geteuid() != 0 {
		return errors.New("loads BPF programs: run it as root (make bench-packet)")
	}
	if os.Getenv(childEnv) == "" {
		return inNamespace()
	}
	wire, err := topology()
	if err != nil {
		return fmt.Errorf("set up the namespace: %w", err)
	}
	cpu, err := pin()
	if err != nil {
		return err
	}
	var text strings.Builder
	b := &bench{cfg: cfg, wire: wire, w: io.MultiWriter(os.Stdout, &text)}
	fmt.Fprintf(b.w, "fairlead %s; %s; CPU %d\n%s", cfg.revision, report.Machine(), cpu, warnings())
	if err := b.all(); err != nil {
		return err
	}
	fmt.Fprintf(b.w, "\n%s\n", report.Machine())
	if err := report.Write(cfg.out, b.rows); err != nil {
		return err
	}
	fmt.Println("figures:", cfg.out)
	if cfg.record == "" {
		return nil
	}
	return b.record(text.String())
}

// inNamespace runs this program again in a fresh network namespace, which ends
// with it.
func inNamespace() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	return err
}

// pin binds this goroutine to its thread and the thread to the last CPU it may
// use.
func pin() (cpu int, err error) {
	runtime.LockOSThread()
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("read CPU affinity: %w", err)
	}
	for i := range 1024 {
		if set.IsSet(i) {
			cpu = i
		}
	}
	set.Zero()
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	return cpu, nil
}

// warnings names settings of this host that make BPF programs slower.
func warnings() string {
	var b strings.Builder
	for _, s := range []struct{ path, want, means string }{
		{"kernel/bpf_stats_enabled", "0", "the kernel times every program"},
		{"net/core/bpf_jit_enable", "1", "programs are interpreted"},
		{"net/core/bpf_jit_harden", "0", "constants are blinded"},
	} {
		v, err := os.ReadFile(filepath.Join("/proc/sys", s.path))
		if got := strings.TrimSpace(string(v)); err == nil && got != s.want {
			fmt.Fprintf(&b, "note: %s is %s: %s\n", s.path, got, s.means)
		}
	}
	return b.String()
}

// record keeps the run's figures and what it printed.
func (b *bench) record(text string) error {
	base := filepath.Join(b.cfg.record, "packet-"+time.Now().Format("2006-01-02")+"-"+b.cfg.revision)
	if err := report.Write(base+".json", b.rows); err != nil {
		return err
	}
	page := "# bench-packet\n\nCommand: `make bench-packet`. The lines below are what it printed; the first and the\nlast name the date, the machine and its load.\n\n```\n" + text + "```\n"
	if err := os.WriteFile(base+".md", []byte(page), 0o644); err != nil {
		return fmt.Errorf("record results: %w", err)
	}
	fmt.Println("recorded:", base+".md")
	return nil
}
