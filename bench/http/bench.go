// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/bench/report"
)

// bench is one run and its figures so far.
type bench struct {
	cfg      config
	dir      string
	w        io.Writer
	subjects []*subject
	procs    []*proc
	certs    certs
}

// kinds of figures, in the order of the report. Less is better for all.
const (
	cpuPerRequest   = "CPU per request"
	cpuPerHandshake = "CPU per TLS handshake"
	median          = "median latency"
	p99             = "99th percentile"
)

var (
	kinds = []string{cpuPerRequest, median, p99, cpuPerHandshake}
	units = map[string]string{cpuPerRequest: "µs", median: "µs", p99: "µs", cpuPerHandshake: "µs"}
)

func (b *bench) run() error {
	var err error
	if b.certs, err = newCerts(b.dir); err != nil {
		return err
	}
	replica, err := b.startRole("replica", clientCPU)
	if err != nil {
		return err
	}
	if err := replica.wait(replicaAddr); err != nil {
		return err
	}
	for _, s := range subjects() {
		if s.name != baseline && b.cfg.only != "" && !slices.Contains(strings.Split(b.cfg.only, ","), s.name) {
			continue
		}
		if err := s.start(b, s); err != nil {
			if s.name == baseline || s.name == "fairlead" {
				return fmt.Errorf("start %s: %w", s.title, err)
			}
			fmt.Fprintf(b.w, "left out: %s: %v\n", s.title, err)
			continue
		}
		s.samples = map[string][]float64{}
		b.subjects = append(b.subjects, s)
	}
	for round := range b.cfg.rounds {
		fmt.Printf("\rround %d of %d", round+1, b.cfg.rounds)
		// Each round begins with another subject, so that none always comes
		// after the same one.
		for i := range b.subjects {
			if err := b.measure(b.subjects[(i+round)%len(b.subjects)]); err != nil {
				fmt.Println()
				return err
			}
		}
	}
	fmt.Println()
	b.table().Print(b.w)
	return nil
}

func (b *bench) measure(s *subject) error {
	before := s.proc.cpu()
	r, err := b.ask(order{Addr: s.addr, Conns: b.cfg.conns, For: b.cfg.time})
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", s.title, err, s.proc.said())
	}
	cpu := s.proc.cpu() - before
	if r.Done == 0 || r.Failed > 0 {
		return fmt.Errorf("%s: %d requests answered, %d failed\n%s", s.title, r.Done, r.Failed, s.proc.said())
	}
	s.add(cpuPerRequest, float64(cpu.Nanoseconds())/1e3/float64(r.Done))
	s.add(median, float64(r.Median.Nanoseconds())/1e3)
	s.add(p99, float64(r.P99.Nanoseconds())/1e3)
	before = s.proc.cpu()
	if r, err = b.ask(order{Addr: s.tlsAddr, Handshakes: true, For: b.cfg.time / 2}); err != nil {
		return fmt.Errorf("%s: TLS: %w\n%s", s.title, err, s.proc.said())
	}
	cpu = s.proc.cpu() - before
	s.add(cpuPerHandshake, float64(cpu.Nanoseconds())/1e3/float64(max(r.Done, 1)))
	return nil
}

func (b *bench) find(name string) *subject {
	i := slices.IndexFunc(b.subjects, func(s *subject) bool { return s.name == name })
	return b.subjects[i]
}

func (b *bench) rows() []report.Row {
	base := b.find(baseline)
	var rows []report.Row
	for _, k := range kinds {
		for _, s := range b.subjects {
			v := report.Median(s.samples[k])
			rows = append(rows, report.Row{
				Case: k, Subject: s.title, Value: v, Unit: units[k], Baseline: base.title,
				Ratio: report.Ratio(v, report.Median(base.samples[k])), Rounds: len(s.samples[k]),
			})
		}
	}
	return rows
}

func (b *bench) table() *report.Table {
	t := &report.Table{
		Title: fmt.Sprintf("HTTP/1.1, %d keep-alive connections, browser-like heads, 1 KiB answers: medians, and × nginx", b.cfg.conns),
		Head:  []string{""},
		Notes: []string{
			"CPU time of the proxy's process, user and kernel, on one CPU of its own; less is better everywhere",
			"every proxy sets X-Request-ID, X-Forwarded-For, -Host and -Proto; fairlead also traceparent, and counts by service and code",
			"handshakes: TLS 1.3, X25519, P-256 certificate, no resumption, one after the other",
		},
	}
	base := b.find(baseline)
	for _, k := range kinds {
		t.Head = append(t.Head, k+", "+units[k], "×")
	}
	for _, s := range b.subjects {
		cells := []string{s.title}
		for _, k := range kinds {
			v := report.Median(s.samples[k])
			cells = append(cells, fmt.Sprintf("%.1f", v), fmt.Sprintf("%.2f", v/report.Median(base.samples[k])))
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}
