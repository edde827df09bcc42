// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-lb/fairlead/bench/harness"
	"github.com/fairlead-lb/fairlead/bench/report"
)

// fillNew is enough new flows to make every table of new flows evict.
const fillNew = 400_000

// subject is a program with the traffic it is measured by.
type subject struct {
	name    string
	kase    *kase // nil: a peer
	prog    *ebpf.Program
	traffic harness.Traffic
	warm    harness.Traffic // zero: none
	count   int             // packets of one sample
	samples []float64       // ns per packet, one a round
}

// phase is one world with one number of live flows: its subjects are measured
// in turns.
type phase struct {
	title    string
	w        *world
	services int
	flows    int
	plain    []float64 // bare XDP_TX without the harness
	subjects []*subject
	lost     float64 // share of fairlead's packets whose flow was no longer known
}

func (p *phase) add(cases []kase, tables bool) {
	p.subjects = peers(p.w.h, p.services, p.flows, tables)
	progs := p.w.objects.Programs()
	for i := range cases {
		k := &cases[i]
		p.subjects = append(p.subjects,
			&subject{name: subjectXDP, kase: k, prog: progs.XDP, traffic: k.traffic, warm: k.warm},
			&subject{name: subjectTC, kase: k, prog: progs.TC, traffic: k.traffic})
	}
}

func (p *phase) run(rounds int, sample time.Duration) error {
	for _, s := range p.subjects {
		if err := p.prepare(s, sample); err != nil {
			return fmt.Errorf("%s, %s: %w", p.title, s.title(), err)
		}
	}
	lost, err := p.reopened()
	if err != nil {
		return err
	}
	packets := 0
	for range rounds {
		took, err := p.w.h.Plain(p.w.h.Peers().BareXDP, 1<<20)
		if err != nil {
			return err
		}
		p.plain = append(p.plain, float64(took)/(1<<20))
		for _, s := range p.subjects {
			if err := p.measure(s); err != nil {
				return fmt.Errorf("%s, %s: %w", p.title, s.title(), err)
			}
			if s.kase != nil {
				packets += s.count
			}
		}
	}
	after, err := p.reopened()
	p.lost = float64(after-lost) / float64(max(packets, 1))
	return err
}

// prepare makes the subject's flows known and finds out how many packets fill
// the time of a sample. A sample is whole turns of the frames.
func (p *phase) prepare(s *subject, sample time.Duration) error {
	const turn = 12
	if len(s.warm.Frames) > 0 {
		n := len(s.warm.Frames) * int(s.warm.Tuples)
		if s.warm.Tuples == harness.Endless {
			n = fillNew
		}
		if _, err := p.w.h.Run(s.prog, s.warm, n); err != nil {
			return err
		}
	}
	const try = 1200 * turn
	took, err := p.w.h.Run(s.prog, s.traffic, try)
	if err != nil {
		return err
	}
	perPacket := max(float64(took)/try, 1)
	s.count = max(int(float64(sample)/perPacket)/turn, 400) * turn
	return nil
}

// measure takes one sample and, of fairlead's programs, makes sure that the
// packets went the way the case says.
func (p *phase) measure(s *subject) error {
	before, err := p.w.counts()
	if err != nil {
		return err
	}
	took, err := p.w.h.Run(s.prog, s.traffic, s.count)
	if err != nil {
		return err
	}
	s.samples = append(s.samples, float64(took)/float64(s.count))
	if s.kase == nil {
		return nil
	}
	after, err := p.w.counts()
	if err != nil {
		return err
	}
	if moved := after[s.kase.reason] - before[s.kase.reason]; float64(moved) < 0.999*float64(s.count) {
		for reason := range after {
			after[reason] -= before[reason]
		}
		return fmt.Errorf("%d packets sent, %d counted as %s (all: %v): this is not what was to be measured",
			s.count, moved, s.kase.reason, after)
	}
	return nil
}

// reopened counts the packets whose flow the table had lost.
func (p *phase) reopened() (uint64, error) {
	stats, err := p.w.target.Stats()
	return stats.Evictions, err
}

// ns is the median of a subject's samples.
func (s *subject) ns() float64 { return report.Median(s.samples) }

func (s *subject) title() string {
	if s.kase == nil {
		return s.name
	}
	return s.name + ", " + s.kase.name
}

// find is the subject of a name, for fairlead's also of a case.
func (p *phase) find(name string, k *kase) *subject {
	for _, s := range p.subjects {
		if s.name == name && s.kase == k {
			return s
		}
	}
	return nil
}
