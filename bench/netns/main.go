// SPDX-License-Identifier: Apache-2.0

// Netns measures one path, client – node – server in network namespaces,
// through different kinds of node: plain routing, fairlead, nftables, iptables,
// nginx and HAProxy, in turns within one run. It needs root.
//
// Everything happens in network, mount and process namespaces of its own. They
// end with it, however it ends, and with them every process, interface, rule,
// mount and program.
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
	time     time.Duration
	many     int
	only     string
	measures string
	bin      string
	out      string
	record   string
	revision string
}

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, "bench-netns:", role+":", err)
			os.Exit(1)
		}
		return
	}
	cfg := config{}
	flag.IntVar(&cfg.rounds, "rounds", 11, "interleaved rounds, of which the median counts")
	flag.DurationVar(&cfg.time, "time", 400*time.Millisecond, "length of one measurement; bulk takes a second at least")
	flag.IntVar(&cfg.many, "services", 10_000, "services of the large configurations")
	flag.StringVar(&cfg.only, "only", "", "nodes to measure beside plain routing, by comma; default: all")
	flag.StringVar(&cfg.measures, "measures", "", "what to measure, by comma: bulk1,bulk8,connect,keepalive,pingpong,udp; default: all")
	flag.StringVar(&cfg.bin, "bin", "bin/fairlead", "the fairlead to measure")
	flag.StringVar(&cfg.out, "out", "bench/out/netns.json", "where the figures go")
	flag.StringVar(&cfg.revision, "revision", "unknown", "what is measured, for the record")
	flag.StringVar(&cfg.record, "record", "", "also write netns-DATE-REVISION.md, .json and .svg into this directory")
	flag.Parse()
	if err := start(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "bench-netns:", err)
		os.Exit(1)
	}
}

func start(cfg config) error {
	if os.Geteuid() != 0 {
		return errors.New("makes network namespaces and loads BPF programs: run it as root (make bench-netns)")
	}
	if inside, err := space.Alone(false); !inside || err != nil {
		return err
	}
	bin, err := filepath.Abs(cfg.bin)
	if err != nil {
		return err
	}
	if _, err := os.Stat(bin); err != nil {
		return fmt.Errorf("find the fairlead to measure: %w: build it (make build)", err)
	}
	var text strings.Builder
	b := &bench{cfg: cfg, bin: bin, w: io.MultiWriter(os.Stdout, &text)}
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
	return b.record(text.String(), rows)
}

// record keeps the run's figures, what it printed and a plot.
func (b *bench) record(text string, rows []report.Row) error {
	base := filepath.Join(b.cfg.record, "netns-"+time.Now().Format("2006-01-02")+"-"+b.cfg.revision)
	if err := report.Write(base+".json", rows); err != nil {
		return err
	}
	if err := os.WriteFile(base+".svg", []byte(b.plot().SVG()), 0o644); err != nil {
		return fmt.Errorf("record results: %w", err)
	}
	page := "# bench-netns\n\nCommand: `make bench-netns`. The lines below are what it printed; the first and the\nlast name the date, the machine and its load.\n\n![" +
		"rates relative to plain routing](" + filepath.Base(base) + ".svg)\n\n```\n" + text + "```\n"
	if err := os.WriteFile(base+".md", []byte(page), 0o644); err != nil {
		return fmt.Errorf("record results: %w", err)
	}
	fmt.Println("recorded:", base+".md")
	return nil
}
