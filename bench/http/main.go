// SPDX-License-Identifier: Apache-2.0

// Http measures reverse proxies, fairlead's pkg/ingress, nginx and HAProxy, in
// turns within one run: the CPU time of the proxy's process for each request,
// latencies, and TLS handshakes. It needs root for a network namespace of its
// own, which ends with it, and with it every process.
package main

import (
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

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/vishvananda/netlink"
)

const (
	childEnv = "FAIRLEAD_BENCH_HTTP"
	roleEnv  = "FAIRLEAD_BENCH_ROLE"
)

// config is what a run may be told.
type config struct {
	rounds   int
	time     time.Duration
	conns    int
	only     string
	out      string
	record   string
	revision string
}

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, "bench-http:", role+":", err)
			os.Exit(1)
		}
		return
	}
	cfg := config{}
	flag.IntVar(&cfg.rounds, "rounds", 9, "interleaved rounds, of which the median counts")
	flag.DurationVar(&cfg.time, "time", time.Second, "length of one measurement")
	flag.IntVar(&cfg.conns, "conns", 64, "keep-alive connections")
	flag.StringVar(&cfg.only, "only", "", "subjects to measure beside nginx, by comma; default: all")
	flag.StringVar(&cfg.out, "out", "bench/out/http.json", "where the figures go")
	flag.StringVar(&cfg.revision, "revision", "unknown", "what is measured, for the record")
	flag.StringVar(&cfg.record, "record", "", "also write http-DATE-REVISION.md and .json into this directory")
	flag.Parse()
	if err := start(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "bench-http:", err)
		os.Exit(1)
	}
}

func start(cfg config) error {
	if os.Geteuid() != 0 {
		return errors.New("makes a network namespace: run it as root (make bench-http)")
	}
	if os.Getenv(childEnv) == "" {
		return inNamespace()
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench-http-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var text strings.Builder
	b := &bench{cfg: cfg, dir: dir, w: io.MultiWriter(os.Stdout, &text)}
	defer b.stop()
	fmt.Fprintf(b.w, "fairlead %s; %s\n", cfg.revision, report.Machine())
	if err := b.run(); err != nil {
		return err
	}
	fmt.Fprintf(b.w, "\n%s\n", report.Machine())
	if err := report.Write(cfg.out, b.rows()); err != nil {
		return err
	}
	fmt.Println("figures:", cfg.out)
	if cfg.record == "" {
		return nil
	}
	return b.record(text.String())
}

// inNamespace runs this program again as the first process of new namespaces.
func inNamespace() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case sig := <-stop:
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("stopped by %s", sig)
	}
}

// record keeps the run's figures and what it printed.
func (b *bench) record(text string) error {
	base := filepath.Join(b.cfg.record, "http-"+time.Now().Format("2006-01-02")+"-"+b.cfg.revision)
	if err := report.Write(base+".json", b.rows()); err != nil {
		return err
	}
	page := "# bench-http\n\nCommand: `make bench-http`. The lines below are what it printed; the first and the\nlast name the date, the machine and its load.\n\n```\n" + text + "```\n"
	if err := os.WriteFile(base+".md", []byte(page), 0o644); err != nil {
		return fmt.Errorf("record results: %w", err)
	}
	fmt.Println("recorded:", base+".md")
	return nil
}
