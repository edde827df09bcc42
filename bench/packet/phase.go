// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-lb/fairlead/bench/harness"
)

const (
	// enough undisturbed samples end a phase after its rounds; for lack of them
	// it takes up to patience times as many.
	enough   = 5
	patience = 3
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
	live    harness.Traffic // zero: none
	count   int             // packets of one sample
	samples []sample        // one a round
}

// phase is one world with one number of live flows: its subjects are measured
// in turns.
type phase struct {
	title    string
	w        *world
	services int
	flows    int
	plain    []sample // bare XDP_TX without the harness
	subjects []*subject
	lost     float64 // share of fairlead's packets whose flow was no longer known

	pace *pace
}

func (p *phase) add(cases []kase, tables bool) {
	p.subjects = peers(p.w.h, p.services, p.flows, tables)
	progs := p.w.objects.Programs()
	for i := range cases {
		k := &cases[i]
		p.subjects = append(p.subjects,
			&subject{name: subjectXDP, kase: k, prog: progs.XDP, traffic: k.traffic, warm: k.warm, live: k.live},
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
	for round := range patience * rounds {
		if err := p.measurePlain(); err != nil {
			return err
		}
		more := false
		for _, s := range p.subjects {
			if round >= rounds && p.pace.quiet(s.samples) >= min(enough, rounds) {
				continue
			}
			more = true
			if err := p.measure(s); err != nil {
				return fmt.Errorf("%s, %s: %w", p.title, s.title(), err)
			}
			if s.kase != nil {
				packets += s.count
			}
		}
		if !more {
			break
		}
	}
	after, err := p.reopened()
	p.lost = float64(after-lost) / float64(max(packets, 1))
	return err
}

// prepare makes the subject's flows known and finds out how many packets fill
// the time of a sample. A sample is whole turns of the frames.
func (p *phase) prepare(s *subject, sample time.Duration) error {
	const turn = 24
	if len(s.live.Frames) > 0 {
		if err := p.w.live(s.live); err != nil {
			return fmt.Errorf("make flows: %w", err)
		}
	}
	if len(s.warm.Frames) > 0 {
		n := len(s.warm.Frames) * int(s.warm.Tuples)
		if s.warm.Tuples == harness.Endless {
			n = fillNew
		}
		if _, err := p.w.h.Run(s.prog, s.warm, n); err != nil {
			return err
		}
	}
	const try = 600 * turn
	took, err := p.w.h.Run(s.prog, s.traffic, try)
	if err != nil {
		return err
	}
	perPacket := max(float64(took)/try, 1)
	s.count = max(int(float64(sample)/perPacket)/turn, 200) * turn
	return nil
}

// measure takes one sample and, of fairlead's programs, makes sure that the
// packets went the way the case says. Before it each flow sends a packet: live
// ones do every few seconds, and a sample is too short for all of half a million.
func (p *phase) measure(s *subject) error {
	if n := s.traffic.Tuples; n > 1 && n != harness.Endless {
		if _, err := p.w.h.Run(s.prog, s.traffic, int(n)*len(s.traffic.Frames)); err != nil {
			return err
		}
	}
	before, err := p.w.counts()
	if err != nil {
		return err
	}
	ahead, err := p.pace.now(p.w.h)
	if err != nil {
		return err
	}
	took, err := p.w.h.Run(s.prog, s.traffic, s.count)
	if err != nil {
		return err
	}
	behind, err := p.pace.now(p.w.h)
	if err != nil {
		return err
	}
	s.samples = append(s.samples, sample{ns: float64(took) / float64(s.count), pace: max(ahead, behind)})
	if s.kase == nil {
		return nil
	}
	return p.check(s, before)
}

// measurePlain is measure for a bare XDP_TX without the harness.
func (p *phase) measurePlain() error {
	ahead, err := p.pace.now(p.w.h)
	if err != nil {
		return err
	}
	took, err := p.w.h.Plain(p.w.h.Peers().BareXDP, 1<<20)
	p.plain = append(p.plain, sample{ns: float64(took) / (1 << 20), pace: ahead})
	return err
}

// check compares the counter of the case with the packets sent.
func (p *phase) check(s *subject, before map[string]uint64) error {
	after, err := p.w.counts()
	if err != nil {
		return err
	}
	moved := after[s.kase.reason] - before[s.kase.reason]
	if s.kase.and != "" {
		moved += after[s.kase.and] - before[s.kase.and]
	}
	if float64(moved) < 0.999*float64(s.count) {
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

// ns is a subject's figure.
func (p *phase) ns(s *subject) float64 { return p.pace.ns(s.samples) }

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
