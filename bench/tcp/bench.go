// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/bench/load"
	"github.com/fairlead-lb/fairlead/bench/report"
)

// measure is one kind of traffic.
type measure struct {
	name  string // of the command line
	title string
	short string // heads a column
	kind  string // of the order
	n     int    // connections
	unit  string
	per   string // what the proxy's CPU time is divided by
	aim   float64
}

var measures = []measure{
	{name: "exchange", title: "exchanges, 64 connections", short: "64 conns", kind: "exchange", n: 64, unit: "1/s", per: "exchange", aim: 1},
	{name: "single", title: "exchanges, 1 connection", short: "1 conn", kind: "exchange", n: 1, unit: "1/s", per: "exchange"},
	{name: "bulk1", title: "bulk, 1 stream", short: "1 stream", kind: "bulk", n: 1, unit: "MB/s", per: "GB", aim: 1.25},
	{name: "bulk4", title: "bulk, 4 streams", short: "4 streams", kind: "bulk", n: 4, unit: "MB/s", per: "GB", aim: 1.25},
	{name: "connect", title: "connect, ClientHello, request, close", short: "connect", kind: "connect", n: 16, unit: "1/s", per: "connection"},
}

// taken is one sample.
type taken struct {
	rate float64
	cpu  float64 // of the proxy, µs per operation, or ms per GB
	ends float64 // CPU of client and server, likewise
	p99  float64 // µs; exchanges only
}

// bench is one run and its figures so far.
type bench struct {
	cfg      config
	bin      string
	before   string // another one; empty: none
	w        io.Writer
	measures []measure
	subjects []*subject
	server   int // its process
	idle     int
	samples  int
	loud     int // samples that are not used, or were taken all the same, because of others on the machine
}

func (b *bench) run() error {
	listed := func(list, name string) bool { return list == "" || slices.Contains(strings.Split(list, ","), name) }
	b.measures = slices.DeleteFunc(slices.Clone(measures), func(m measure) bool { return !listed(b.cfg.measures, m.name) })
	server := child("server")
	in, err := server.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	b.server = server.Process.Pid
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	if b.before != "" {
		stranger, err := occupy()
		if err != nil {
			return err
		}
		defer stranger.Close()
	}
	for _, s := range b.all() {
		if !listed(b.cfg.only, s.name) {
			continue
		}
		if err := s.start(b); err != nil {
			// One peer that cannot be had is no reason to measure nothing.
			fmt.Fprintf(b.w, "left out: %s: %v\n", s.title, err)
			if s.name == "fairlead" {
				return err
			}
			continue
		}
		s.samples = map[string][]taken{}
		b.subjects = append(b.subjects, s)
	}
	for round := range b.cfg.rounds {
		fmt.Printf("\rround %d of %d", round+1, b.cfg.rounds)
		if err := b.round(round); err != nil {
			fmt.Println()
			return err
		}
	}
	fmt.Println()
	if err := b.idles(); err != nil {
		return err
	}
	b.print()
	return nil
}

// round measures everything once, beginning with another subject each time.
func (b *bench) round(n int) error {
	for _, m := range b.measures {
		for i := range b.subjects {
			s := b.subjects[(i+n)%len(b.subjects)]
			v, err := b.take(m, s)
			if err != nil { // once may be this machine's other load
				fmt.Fprintf(b.w, "\nagain: %s, %s: %v\n", m.title, s.title, err)
				v, err = b.take(m, s)
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w\n%s", m.title, s.title, err, s.said.String())
			}
			s.samples[m.name] = append(s.samples[m.name], v)
		}
	}
	return nil
}

// take takes a sample, and again while others disturb.
func (b *bench) take(m measure, s *subject) (t taken, err error) {
	for range calmTries {
		loud := false
		if t, loud, err = b.sample(m, s); err != nil || !loud {
			break
		}
		b.loud++
	}
	return t, err
}

func (b *bench) sample(m measure, s *subject) (t taken, loud bool, err error) {
	b.samples++
	proxy, server := cpu(s.cmd.Process.Pid), cpu(b.server)
	all, err := machineTime()
	if err != nil {
		return t, false, err
	}
	start := time.Now()
	r, err := ask(order{Kind: m.kind, To: s.to(), For: b.cfg.time, N: m.n})
	if err != nil {
		return t, false, err
	}
	elapsed := time.Since(start)
	after, err := machineTime()
	if err != nil {
		return t, false, err
	}
	used, ends := cpu(s.cmd.Process.Pid)-proxy, r.CPU+cpu(b.server)-server
	loud = disturbed(after-all, used+ends, elapsed)
	done := float64(r.Done)
	t = taken{rate: r.PerSecond(), cpu: used.Seconds() * 1e6 / done, ends: ends.Seconds() * 1e6 / done, p99: float64(r.P99) / 1e3}
	if m.kind == "bulk" {
		t = taken{rate: r.PerSecond() / 1e6, cpu: used.Seconds() * 1e3 / (done / 1e9), ends: ends.Seconds() * 1e3 / (done / 1e9), p99: math.NaN()}
	}
	return t, loud, nil
}

// idles measures the memory of connections on which nothing happens.
func (b *bench) idles() error {
	b.idle = min(b.cfg.idle, haproxyConns()-200)
	if b.idle <= 0 {
		return nil
	}
	for _, s := range b.subjects {
		before := memory(s.cmd.Process.Pid)
		cmd := child("client")
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := json.NewEncoder(in).Encode(order{Kind: "idle", To: s.to(), N: b.idle}); err != nil {
			return err
		}
		var r load.Result
		err = json.NewDecoder(out).Decode(&r)
		time.Sleep(3 * time.Second) // a garbage collector's turn
		s.idle = []float64{float64(memory(s.cmd.Process.Pid)-before) / float64(b.idle)}
		_ = in.Close()
		if err = errors.Join(err, cmd.Wait()); err != nil {
			return fmt.Errorf("idle connections, %s: %w\n%s", s.title, err, stderr.String())
		}
	}
	return nil
}

func median(s *subject, m measure, f func(taken) float64) float64 {
	var vs []float64
	for _, t := range s.samples[m.name] {
		vs = append(vs, f(t))
	}
	return report.Median(vs)
}

func rateOf(t taken) float64 { return t.rate }
func costOf(t taken) float64 { return t.cpu }
func endsOf(t taken) float64 { return t.ends }
func p99Of(t taken) float64  { return t.p99 }

func (b *bench) rows() []report.Row {
	var rows []report.Row
	for _, m := range b.measures {
		for _, s := range b.subjects {
			n := len(s.samples[m.name])
			rate, who := b.against(s, m, rateOf, lower)
			rows = append(rows, report.Row{Case: m.title, Subject: s.title, Value: median(s, m, rateOf), Unit: m.unit, Baseline: who, Ratio: rate, Rounds: n})
			unit, ends := "µs CPU of the proxy per "+m.per, "µs CPU of client and server per "+m.per
			if m.kind == "bulk" {
				unit, ends = "ms CPU of the proxy per GB", "ms CPU of client and server per GB"
			} else {
				late, who := b.against(s, m, p99Of, higher)
				rows = append(rows, report.Row{Case: m.title, Subject: s.title, Value: median(s, m, p99Of), Unit: "µs, 99th percentile", Baseline: who, Ratio: late, Rounds: n})
			}
			rows = append(rows, report.Row{Case: m.title, Subject: s.title, Value: median(s, m, costOf), Unit: unit, Rounds: n})
			rows = append(rows, report.Row{Case: m.title, Subject: s.title, Value: median(s, m, endsOf), Unit: ends, Rounds: n})
		}
	}
	for _, s := range b.subjects {
		if len(s.idle) > 0 {
			rows = append(rows, report.Row{
				Case: fmt.Sprintf("%d idle connections", b.idle), Subject: s.title, Value: report.Median(s.idle), Unit: "bytes of the proxy per connection", Rounds: 1,
			})
		}
	}
	return rows
}

func (b *bench) print() {
	rates := &report.Table{Title: "Rates: medians, and × the better of nginx stream and HAProxy, by the median of the rounds' ratios", Head: []string{""}}
	costs := &report.Table{Title: "CPU of the proxy + of client and server: µs per exchange and connection, ms per GB", Head: []string{""}}
	late := &report.Table{Title: "99th percentile of an exchange, µs, and × the better peer's, likewise", Head: []string{""}}
	for _, m := range b.measures {
		rates.Head = append(rates.Head, m.short+", "+m.unit, "×")
		costs.Head = append(costs.Head, m.short)
		if m.kind != "bulk" {
			late.Head = append(late.Head, m.short, "×")
		}
		if m.aim > 0 {
			for _, s := range b.subjects {
				if r, who := b.against(s, m, rateOf, lower); s.name == "fairlead" && who != "" {
					rates.Notes = append(rates.Notes, fmt.Sprintf("%s: aim %.2f, measured %.2f", m.title, m.aim, r))
				}
			}
		}
	}
	for _, s := range b.subjects {
		r, c, l := []string{s.title}, []string{s.title}, []string{s.title}
		for _, m := range b.measures {
			r = append(r, report.Number(int(median(s, m, rateOf))), b.ratio(s, m, rateOf, lower))
			c = append(c, fmt.Sprintf("%.1f + %.1f", median(s, m, costOf), median(s, m, endsOf)))
			if m.kind != "bulk" {
				l = append(l, fmt.Sprintf("%.0f", median(s, m, p99Of)), b.ratio(s, m, p99Of, higher))
			}
		}
		rates.Rows, costs.Rows, late.Rows = append(rates.Rows, r), append(costs.Rows, c), append(late.Rows, l)
	}
	rates.Notes = append(rates.Notes, fmt.Sprintf("%d of %d samples were disturbed by others", b.loud, b.samples))
	for _, t := range []*report.Table{rates, costs, late} {
		t.Print(b.w)
	}
	if b.idle == 0 {
		return
	}
	idle := &report.Table{Title: "Memory of the proxy with " + report.Number(b.idle) + " idle connections", Head: []string{"", "bytes each"}}
	if b.idle < b.cfg.idle {
		idle.Notes = append(idle.Notes, fmt.Sprintf("the limit of descriptors here (%d) allows no more", nofile()))
	}
	for _, s := range b.subjects {
		idle.Add(s.title, report.Number(int(report.Median(s.idle))))
	}
	idle.Print(b.w)
}

// nofile is how many descriptors a process may have.
func nofile() int {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		return 1024
	}
	return int(min(lim.Max, 1<<20))
}

func cpus() string { return strconv.Itoa(runtime.NumCPU()) }
