// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math/bits"
	"strconv"
	"strings"

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// bench is one run and its figures so far.
type bench struct {
	cfg  config
	wire uint32
	w    io.Writer
	rows []report.Row
}

// part is a world with its cases.
type part struct {
	name     string
	what     string
	services int
	backends int // per service
	family   family
	cases    func(services, flows int) []kase
	tables   bool // measure the peers with tables beside it
	sizes    func(*bpf.Config)
	flows    []int // default: those of the command line
}

func (b *bench) all() error {
	flows, err := parseFlows(b.cfg.flows)
	if err != nil {
		return err
	}
	for _, p := range []part{
		{name: "one", what: "1 service × 10 backends", services: 1, backends: perService, cases: requests, tables: true},
		{name: "six", what: "1 IPv6 service × 10 backends", services: 1, backends: perService, family: v6, cases: requests6},
		{name: "replies", what: "1 service × 1 backend", services: 1, backends: 1, cases: replies},
		{
			name: "churn", what: "1 service × 10 backends, flow table full", services: 1, backends: perService, cases: churn,
			sizes: func(c *bpf.Config) { c.Flows = 1 << 17 }, flows: []int{1 << 16},
		},
		{
			name: "many", what: report.Number(b.cfg.services) + " services × 10 backends", services: b.cfg.services,
			backends: perService, cases: requests, tables: true,
		},
	} {
		if p.flows == nil {
			p.flows = flows
		}
		if !strings.Contains(p.name, b.cfg.only) {
			continue
		}
		if err := b.part(p); err != nil {
			return err
		}
	}
	if strings.Contains("control", b.cfg.only) {
		return b.control()
	}
	return nil
}

func (b *bench) part(p part) error {
	sizes := sizesFor(p.services)
	if p.sizes != nil {
		p.sizes(&sizes)
	}
	w, err := openWorld(b.wire, sizes, stateOf(p.services, p.backends, p.family))
	if err != nil {
		return fmt.Errorf("%s: %w", p.what, err)
	}
	defer w.close()
	for _, flows := range p.flows {
		ph := &phase{title: fmt.Sprintf("%s, %s live flows", p.what, report.Number(flows)), w: w, services: p.services, flows: flows}
		ph.add(p.cases(p.services, flows), p.tables)
		if err := ph.run(b.cfg.rounds, b.cfg.sample); err != nil {
			return err
		}
		t := ph.table()
		t.Print(b.w)
		b.rows = append(b.rows, ph.rows()...)
	}
	return nil
}

func parseFlows(list string) ([]int, error) {
	var flows []int
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n <= 0 || bits.OnesCount(uint(n)) != 1 {
			return nil, fmt.Errorf("flows: %q is no power of two; want something like 1,65536,524288", s)
		}
		flows = append(flows, n)
	}
	return flows, nil
}
