// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/bench/report"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// counting counts the writes that reach the kernel. Whatever else Maps can do
// goes through.
type counting struct {
	dataplane.Maps
	services, backends, slots, other int
}

func (c *counting) PutService(k bpf.ServiceKey, s bpf.Service) error {
	c.services++
	return c.Maps.PutService(k, s)
}

func (c *counting) DeleteService(k bpf.ServiceKey) error {
	c.services++
	return c.Maps.DeleteService(k)
}

func (c *counting) PutBackend(i uint32, b bpf.Backend) error {
	c.backends++
	return c.Maps.PutBackend(i, b)
}

func (c *counting) PutSlots(base uint32, ids []uint32) error {
	c.slots++
	return c.Maps.PutSlots(base, ids)
}

func (c *counting) PutAllow(a bpf.Allow) error {
	c.other++
	return c.Maps.PutAllow(a)
}

func (c *counting) DeleteAllow(a bpf.Allow) error {
	c.other++
	return c.Maps.DeleteAllow(a)
}

func (c *counting) ResetServiceStats(id uint32) error {
	c.other++
	return c.Maps.ResetServiceStats(id)
}

// String lists the writes since the last reset.
func (c *counting) String() string {
	return fmt.Sprintf("%d services, %d backends, %d tables, %d others", c.services, c.backends, c.slots, c.other)
}

func (c *counting) reset() { c.services, c.backends, c.slots, c.other = 0, 0, 0, 0 }

func (c *counting) total() int { return c.services + c.backends + c.slots + c.other }

// plane is a target over counted maps.
type plane struct {
	maps   *counting
	target *dataplane.Target
	wire   uint32
}

func (p *plane) start() (err error) {
	p.maps.reset()
	p.target, err = dataplane.New(dataplane.Config{Maps: p.maps, Hops: onWire{p.wire}})
	return err
}

// step is one thing the control plane does, timed over some rounds.
type step struct {
	name   string
	aim    time.Duration
	times  []float64 // milliseconds
	cpu    []float64 // the same, of all threads
	writes string    // empty: it is not about the maps
	count  int
}

func (s *step) time(p *plane, do func() error) error {
	p.maps.reset()
	err := s.clock(do)
	s.writes, s.count = p.maps.String(), p.maps.total()
	return err
}

func (s *step) clock(do func() error) error {
	start, used := time.Now(), processCPU()
	err := do()
	s.times = append(s.times, float64(time.Since(start))/float64(time.Millisecond))
	s.cpu = append(s.cpu, float64(processCPU()-used)/float64(time.Millisecond))
	return err
}

// processCPU is what all threads have used so far.
func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// control measures filling, changing and adopting. No packet is involved.
func (b *bench) control() error {
	var steps []*step
	for _, n := range []int{1000, 10_000, b.cfg.services} {
		got, err := b.controlOf(n)
		steps = append(steps, got...)
		if err == nil {
			got, err = b.aroundOf(n)
			steps = append(steps, got...)
		}
		if err != nil {
			return fmt.Errorf("control plane with %d services: %w", n, err)
		}
	}
	t := report.Table{
		Title: "Control plane (dataplane.Target over the kernel's maps, and what an agent's start needs beside it)",
		Head:  []string{"", "median ms", "CPU ms", "aim", "rounds", "writes"},
	}
	for _, s := range steps {
		aim := ""
		if s.aim > 0 {
			mark := "✓"
			if report.Median(s.times) > float64(s.aim.Milliseconds()) {
				mark = "✗"
			}
			aim = fmt.Sprintf("≤ %d %s", s.aim.Milliseconds(), mark)
		}
		t.Add(s.name, fmt.Sprintf("%.1f", report.Median(s.times)), fmt.Sprintf("%.1f", report.Median(s.cpu)), aim, fmt.Sprint(len(s.times)), s.writes)
		b.rows = append(b.rows,
			report.Row{Case: s.name, Subject: "control plane", Value: report.Median(s.times), Unit: "ms", Rounds: len(s.times)},
			report.Row{Case: s.name, Subject: "control plane", Value: report.Median(s.cpu), Unit: "CPU ms", Rounds: len(s.times)})
		if s.writes != "" {
			b.rows = append(b.rows, report.Row{Case: s.name, Subject: "control plane", Value: float64(s.count), Unit: "map writes", Rounds: len(s.times)})
		}
	}
	t.Print(b.w)
	return nil
}

func (b *bench) controlOf(n int) ([]*step, error) {
	state := stateOf(n, perService, v4)
	title := report.Number(n) + " services × 10: "
	fill := &step{name: title + "from nothing"}
	change := &step{name: title + "one backend removed"}
	again := &step{name: title + "the same state again"}
	adopt := &step{name: title + "restart: New and first Apply"}
	read := &step{name: title + "· of that, New: the maps read"}
	if n == 10_000 {
		fill.aim, adopt.aim = 2*time.Second, 2*time.Second
	}
	if n == b.cfg.services {
		change.aim, adopt.aim = 5*time.Millisecond, 2*time.Second
	}
	all := []*step{fill, change, again, adopt, read}
	objects, err := bpf.Open(sizesFor(n))
	if err != nil {
		return nil, err
	}
	defer objects.Close()
	p := &plane{maps: &counting{Maps: objects}, wire: b.wire}
	ctx := context.Background()
	if took, err := b.predict(n); err != nil {
		return nil, err
	} else if took > b.cfg.patience {
		b.say("%s not measured, it would take about %s", fill.name, took.Round(time.Second))
		all = all[1:]
		if err := seed(objects, state, onWire{b.wire}); err != nil {
			return nil, err
		}
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	if err := fill.time(p, func() error { return p.target.Apply(ctx, state) }); err != nil {
		return nil, err
	}
	started := time.Now()
	for i := range b.cfg.rounds {
		if i > 2 && time.Since(started) > b.cfg.patience/4 {
			break // what takes that long needs no finer figure
		}
		state = without(state, i*7919%n)
		if err := change.time(p, func() error { return p.target.Apply(ctx, state) }); err != nil {
			return all, err
		}
	}
	for i := range min(b.cfg.rounds, 3) {
		if i > 0 && time.Since(started) > b.cfg.patience {
			break
		}
		errs := again.time(p, func() error { return p.target.Apply(ctx, state) })
		p.target = nil
		runtime.GC() // a new agent has no old one in its memory
		errs = errors.Join(errs, adopt.time(p, func() error {
			if err := read.time(p, p.start); err != nil {
				return err
			}
			return p.target.Apply(ctx, state)
		}))
		if errs != nil {
			return all, errs
		}
	}
	return all, nil
}

// without is the next state, in which service i has lost its first backend.
func without(s *model.State, i int) *model.State {
	next := *s
	next.Generation++
	next.Services = slices.Clone(s.Services)
	svc := *s.Services[i]
	svc.Backends = svc.Backends[1:]
	next.Services[i] = &svc
	return &next
}
