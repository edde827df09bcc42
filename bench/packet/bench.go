// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// bench is one run and its figures so far.
type bench struct {
	cfg  config
	wire uint32
	w    io.Writer
	rows []report.Row

	fills []time.Duration // of predict
	pace  pace
}

// partControl is the part without packets.
const partControl = "control"

// part is a world with its cases.
type part struct {
	name     string
	what     string
	services int
	backends int // per service
	family   family
	tweak    func(*model.Service) // of every service
	cases    func(services, flows int) []kase
	after    func(services, flows int) []kase // in a phase of their own at the end; nil: none
	tables   bool                             // measure the peers with tables beside it
	sizes    func(*bpf.Config)
	flows    []int // default: those of the command line
	memory   bool  // tell what the maps take
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
		{name: "new", what: "1 service × 10 backends, a flood of new flows", services: 1, backends: perService, cases: flood, tables: true},
		{
			name: "affinity", what: "1 service × 10 backends, affinity client-ip", services: 1, backends: perService, cases: affinity, after: flood,
			tweak: func(s *model.Service) { s.Balance.Affinity = "client-ip" },
		},
		{
			name: "full-nat", what: "1 service × 1 backend, mode full-nat", services: 1, backends: 1, cases: fullNAT, tables: true,
			tweak: func(s *model.Service) { s.Mode = model.ModeFullNAT },
		},
		{
			name: "udp", what: "1 UDP service × 1 backend", services: 1, backends: 1, cases: datagrams, after: questions, tables: true,
			tweak: func(s *model.Service) { s.Ports[0].Protocol = model.UDP }, flows: []int{1, 1 << 14},
		},
		{
			name: "churn", what: "1 service × 1 backend, flow table full", services: 1, backends: 1, cases: connections,
			sizes: func(c *bpf.Config) { c.Flows = 1 << 17 }, flows: []int{1 << 16},
		},
		{
			name: "many", what: report.Number(b.cfg.services) + " services × 10 backends", services: b.cfg.services,
			backends: perService, cases: requests, after: flood, tables: true, memory: true,
		},
	} {
		if p.flows == nil {
			p.flows = flows
		}
		if !b.wants(p.name) {
			continue
		}
		if err := b.part(p); err != nil {
			return err
		}
	}
	if b.wants(partControl) {
		return b.control()
	}
	return nil
}

func (b *bench) wants(part string) bool {
	return b.cfg.only == "" || slices.Contains(strings.Split(b.cfg.only, ","), part)
}

func (b *bench) part(p part) error {
	sizes := sizesFor(p.services)
	if p.sizes != nil {
		p.sizes(&sizes)
	}
	took, err := b.predict(p.services)
	if err != nil {
		return err
	}
	direct := took > b.cfg.patience
	if direct {
		b.say("%s: a Target would fill the maps in about %s, so this program writes most of them and the Target adopts", p.what, took.Round(time.Second))
	}
	state := stateOf(p.services, p.backends, p.family)
	for i := range state.Services {
		if p.tweak != nil {
			p.tweak(state.Services[i])
		}
	}
	w, err := openWorld(b.wire, sizes, state, direct)
	if err != nil {
		return fmt.Errorf("%s: %w", p.what, err)
	}
	defer w.close()
	for _, flows := range p.flows {
		if err := b.phase(w, p, p.what, flows, p.cases); err != nil {
			return err
		}
	}
	if p.after != nil {
		if err := b.phase(w, p, p.what+", a flood of new flows", p.flows[len(p.flows)-1], p.after); err != nil {
			return err
		}
	}
	if !p.memory {
		return nil
	}
	return b.memory(p.what)
}

func (b *bench) phase(w *world, p part, what string, flows int, cases func(services, flows int) []kase) error {
	ph := &phase{
		title: fmt.Sprintf("%s, %s live flows", what, report.Number(flows)), w: w, services: p.services, flows: flows, pace: &b.pace,
	}
	ph.add(cases(p.services, flows), p.tables)
	if err := ph.run(b.cfg.rounds, b.cfg.sample); err != nil {
		return err
	}
	t := ph.table()
	t.Print(b.w)
	b.rows = append(b.rows, ph.rows()...)
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
