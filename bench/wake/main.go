// SPDX-License-Identifier: Apache-2.0

// Wake measures how long the first connection to a service that sleeps waits,
// and for what: fairlead beside a small activator that asks every 10 ms
// whether the program listens, and one that hands its listening socket to the
// program, as systemd does. Then what a thousand sleeping services cost, and
// whether a burst of first connections misses one. It needs root.
//
// Everything happens in network, mount and process namespaces of its own and
// in a cgroup of its own. They end with it, however it ends.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/fairlead-lb/fairlead/bench/space"
)

const roleEnv = "FAIRLEAD_BENCH_ROLE"

// config is what a run may be told.
type config struct {
	rounds   int
	sleepers int
	burst    int
	quiet    time.Duration
	only     string
	bin      string
	out      string
	record   string
	revision string
}

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, "bench-wake:", role+":", err)
			os.Exit(1)
		}
		return
	}
	cfg := config{}
	flag.IntVar(&cfg.rounds, "rounds", 200, "interleaved rounds: wakes of each subject")
	flag.IntVar(&cfg.sleepers, "sleepers", 1000, "sleeping services whose cost is measured; 0: none, and no burst")
	flag.IntVar(&cfg.burst, "burst", 500, "of these, how many are woken at once")
	flag.DurationVar(&cfg.quiet, "quiet", time.Minute, "how long the CPU time of sleeping services is measured")
	flag.StringVar(&cfg.only, "only", "", "subjects to wake, by comma: fairlead,poll,handed; default: all")
	flag.StringVar(&cfg.bin, "bin", "bin/fairlead", "the fairlead to measure")
	flag.StringVar(&cfg.out, "out", "bench/out/wake.json", "where the figures go")
	flag.StringVar(&cfg.revision, "revision", "unknown", "what is measured, for the record")
	flag.StringVar(&cfg.record, "record", "", "also write wake-DATE-REVISION.md and .json into this directory")
	flag.Parse()
	if err := start(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "bench-wake:", err)
		os.Exit(1)
	}
}

func start(cfg config) error {
	if os.Geteuid() != 0 {
		return errors.New("makes network namespaces and loads BPF programs: run it as root (make bench-wake)")
	}
	if inside, err := space.Alone(true); !inside || err != nil {
		return err
	}
	bin, err := filepath.Abs(cfg.bin)
	if err != nil {
		return err
	}
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("find the fairlead to measure: %w: build it (make build)", err)
	}
	if cfg.burst = min(cfg.burst, cfg.sleepers); cfg.rounds < 1 {
		return errors.New("-rounds: want at least 1")
	}
	var text strings.Builder
	b := &bench{cfg: cfg, bin: bin, w: io.MultiWriter(os.Stdout, &text)}
	fmt.Fprintf(b.w, "fairlead %s; %s\n", cfg.revision, report.Machine())
	if err := b.run(); err != nil {
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
	return record(cfg, text.String(), b.rows)
}

// record keeps the run's figures and what it printed.
func record(cfg config, text string, rows []report.Row) error {
	base := filepath.Join(cfg.record, "wake-"+time.Now().Format("2006-01-02")+"-"+cfg.revision)
	if err := report.Write(base+".json", rows); err != nil {
		return err
	}
	page := "# bench-wake\n\nCommand: `make bench-wake`. The lines below are what it printed; the first and the\n" +
		"last name the date, the machine and its load.\n\n```\n" + text + "```\n"
	if err := os.WriteFile(base+".md", []byte(page), 0o644); err != nil {
		return fmt.Errorf("record results: %w", err)
	}
	fmt.Println("recorded:", base+".md")
	return nil
}
