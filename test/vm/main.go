// SPDX-License-Identifier: Apache-2.0

// Command vm runs the tests that touch the kernel inside QEMU, on kernels as
// Debian ships them, and reports what passed, failed and was skipped there.
// `make test-vm` builds what it needs. Nothing of this machine but its package
// mirror is used: the kernels are unpacked under -dir, the guest has no disk
// and no network, and its first process is this same program (guest.go).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type config struct {
	arch    string
	kernels string
	suites  string
	run     string
	skip    string
	dir     string
	report  string
	limit   time.Duration
	memory  string
	accel   string
	slower  int
	modes   string
	verbose bool
}

func main() {
	if os.Getpid() == 1 {
		guest()
	}
	var c config
	flag.StringVar(&c.arch, "arch", "amd64", "amd64 or arm64")
	flag.StringVar(&c.kernels, "kernels", strings.Join(kernelNames(), ","), "which kernels, comma separated")
	flag.StringVar(&c.suites, "suites", "bpf,packet,attach,doctor", "which suites: "+strings.Join(suiteNames(), ","))
	flag.StringVar(&c.run, "run", "", "only the tests that match this regular expression")
	flag.StringVar(&c.skip, "skip", heavy, "not the tests that match this; \"\": all")
	flag.StringVar(&c.dir, "dir", "bin/vm", "where packages, kernels, images and logs are kept")
	flag.StringVar(&c.report, "report", "", "also write the report to this file")
	flag.DurationVar(&c.limit, "timeout", 45*time.Minute, "for one kernel")
	flag.StringVar(&c.memory, "memory", "3G", "of the guest")
	flag.StringVar(&c.accel, "accel", "tcg,thread=single", "QEMU's accelerator; kvm where that boots stock kernels")
	flag.IntVar(&c.slower, "slower", 4, "how many times slower than a machine tests take the guest to be: deadlines, rates, sizes")
	flag.StringVar(&c.modes, "modes", "", "only these ways of attaching in the namespace tests, comma separated: tcx, clsact, xdp-native, xdp-generic, nftables")
	flag.BoolVar(&c.verbose, "v", false, "show the guest's console")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := runAll(ctx, c)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// runAll boots one kernel after the other: the machine is shared.
func runAll(ctx context.Context, c config) (ok bool, err error) {
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return false, err
	}
	names, suites := strings.Split(c.kernels, ","), strings.Split(c.suites, ",")
	for _, n := range names {
		if !slices.Contains(kernelNames(), n) {
			return false, fmt.Errorf("kernel %q: known are %s", n, strings.Join(kernelNames(), ", "))
		}
	}
	for _, s := range suites {
		if !slices.Contains(suiteNames(), s) {
			return false, fmt.Errorf("suite %q: known are %s", s, strings.Join(suiteNames(), ", "))
		}
	}
	apt, err := newApt(ctx, c.dir, c.arch, names)
	if err != nil {
		return false, err
	}
	var results []result
	for _, name := range names {
		k, err := apt.unpack(ctx, kernelByName(name))
		if err != nil {
			return false, err
		}
		image := filepath.Join(c.dir, "initramfs-"+name+"-"+c.arch)
		if err := writeImage(ctx, image, k, jobs(suites, c.run, c.skip), c); err != nil {
			return false, err
		}
		fmt.Printf("== %s (%s, %s)\n", name, k.release, c.arch)
		r := boot(ctx, c, k, image)
		results = append(results, r)
		r.write(os.Stdout)
		if ctx.Err() != nil {
			break
		}
	}
	ok = !slices.ContainsFunc(results, func(r result) bool { return !r.ok() })
	return ok, writeReport(c, results)
}

func writeReport(c config, results []result) error {
	var b strings.Builder
	table(&b, results)
	if c.skip != "" {
		fmt.Fprintf(&b, "\nNot run: tests that match `%s`.\n", c.skip)
	}
	if c.skip == heavy {
		fmt.Fprintln(&b, "They take a million packets, or system calls, each; they run on the host.")
	}
	fmt.Print(b.String())
	if c.report == "" {
		return nil
	}
	head := fmt.Sprintf("# Tests on Debian's kernels, %s\n\n%s, QEMU %s; `make test-vm ARGS=%q`.\n\n",
		c.arch, time.Now().UTC().Format("2006-01-02"), c.accel, strings.Join(os.Args[1:], " "))
	return os.WriteFile(c.report, []byte(head+b.String()), 0o644)
}

func table(w io.Writer, results []result) {
	fmt.Fprintln(w, "| kernel | suite | passed | failed | skipped: what the kernel lacks | time |\n|---|---|---|---|---|---|")
	for _, r := range results {
		for _, s := range r.suites {
			skipped := make([]string, 0, len(s.skipped))
			for _, why := range s.reasons() {
				skipped = append(skipped, fmt.Sprintf("%d: %s", s.skipped[why], why))
			}
			failed := fmt.Sprint(len(s.failed))
			if s.broken != "" {
				failed = s.broken
			}
			fmt.Fprintf(w, "| %s | %s | %d | %s | %s | %d s |\n", r.release, s.name, s.passed, failed,
				strings.Join(skipped, "; "), int(s.took.Seconds()))
		}
		if r.problem != "" {
			fmt.Fprintf(w, "| %s | | | %s | | |\n", r.release, r.problem)
		}
	}
}
