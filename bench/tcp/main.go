// SPDX-License-Identifier: Apache-2.0

// Tcp measures routing of TCP connections by TLS server name: fairlead, nginx
// stream and HAProxy, in turns within one run. Every connection begins with a
// ClientHello, which all three read; then small messages, bulk, new
// connections, or nothing. It needs root.
//
// Everything happens on loopback addresses of a network namespace of its own,
// which ends with it, and with it every process and program.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/bench/report"
)

const (
	childEnv = "FAIRLEAD_BENCH_TCP"
	roleEnv  = "FAIRLEAD_BENCH_ROLE"
)

// config is what a run may be told.
type config struct {
	rounds   int
	time     time.Duration
	idle     int
	only     string
	measures string
	bin      string
	before   string
	out      string
	record   string
	revision string
}

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, "bench-tcp:", role+":", err)
			os.Exit(1)
		}
		return
	}
	cfg := config{}
	flag.IntVar(&cfg.rounds, "rounds", 41, "interleaved rounds, of which the median counts")
	flag.DurationVar(&cfg.time, "time", 250*time.Millisecond, "length of one measurement")
	flag.IntVar(&cfg.idle, "idle", 20_000, "idle connections; fewer where the limit of descriptors is lower; 0: none")
	flag.StringVar(&cfg.only, "only", "", "proxies to measure, by comma: fairlead,nginx,haproxy; default: all")
	flag.StringVar(&cfg.measures, "measures", "", "what to measure, by comma: exchange,single,bulk1,bulk4,connect; default: all")
	flag.StringVar(&cfg.bin, "bin", "bin/fairlead", "the fairlead to measure")
	flag.StringVar(&cfg.before, "before", "", "another fairlead to measure beside it, such as that of the commit before")
	flag.StringVar(&cfg.out, "out", "bench/out/tcp.json", "where the figures go")
	flag.StringVar(&cfg.revision, "revision", "unknown", "what is measured, for the record")
	flag.StringVar(&cfg.record, "record", "", "also write tcp-DATE-REVISION.md and .json into this directory")
	flag.Parse()
	if err := start(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "bench-tcp:", err)
		os.Exit(1)
	}
}

func start(cfg config) error {
	if os.Geteuid() != 0 {
		return errors.New("makes a network namespace and loads BPF programs: run it as root (make bench-tcp)")
	}
	if os.Getenv(childEnv) == "" {
		return inNamespaces()
	}
	bin, err := filepath.Abs(cfg.bin)
	if err != nil {
		return err
	}
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("find the fairlead to measure: %w: build it (make build)", err)
	}
	before := ""
	if cfg.before != "" {
		if before, err = filepath.Abs(cfg.before); err != nil {
			return err
		}
	}
	if err := private(); err != nil {
		return err
	}
	var text strings.Builder
	b := &bench{cfg: cfg, bin: bin, before: before, w: io.MultiWriter(os.Stdout, &text)}
	fmt.Fprintf(b.w, "fairlead %s; %s\n", cfg.revision, report.Machine())
	if err := b.run(); err != nil {
		return err
	}
	fmt.Fprintf(b.w, "\n%s\n", report.Machine())
	rows := b.rows()
	if err := report.Write(cfg.out, rows); err != nil {
		return err
	}
	fmt.Println("figures:", cfg.out)
	if cfg.record == "" {
		return nil
	}
	return record(cfg, text.String(), rows)
}

// inNamespaces runs this program again as the first process of new namespaces.
// When it ends, by itself or because this one did, the kernel ends the rest.
func inNamespaces() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var err error
	select {
	case err = <-done:
	case sig := <-stop:
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("stopped by %s", sig)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1))
	}
	return err
}

// dir holds the files of the run.
const dir = "/run/bench"

// private gives this process a /proc and a /run of its own, and loopback.
func private() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for key, v := range map[string]string{"ip_local_port_range": "1024 65535", "tcp_tw_reuse": "1"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+key, []byte(v), 0); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	for _, args := range []string{"link set lo up", "addr add " + serverIP + "/32 dev lo", "addr add " + clientIP + "/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w\n%s", args, err, out)
		}
	}
	return os.MkdirAll(dir, 0o755)
}

// record keeps the run's figures and what it printed.
func record(cfg config, text string, rows []report.Row) error {
	base := filepath.Join(cfg.record, "tcp-"+time.Now().Format("2006-01-02")+"-"+cfg.revision)
	if err := report.Write(base+".json", rows); err != nil {
		return err
	}
	page := "# bench-tcp\n\nCommand: `make bench-tcp`. The lines below are what it printed; the first and the\n" +
		"last name the date, the machine and its load.\n\n```\n" + text + "```\n"
	if err := os.WriteFile(base+".md", []byte(page), 0o644); err != nil {
		return fmt.Errorf("record results: %w", err)
	}
	fmt.Println("recorded:", base+".md")
	return nil
}

// say prints a value for the parent process.
func say(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
