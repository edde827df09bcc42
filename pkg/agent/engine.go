// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// worker is something that runs beside the loops as long as the agent does.
// One that ends is started again.
type worker struct {
	name string
	run  func(context.Context) error
}

// engine carries the desired state from the sources to the targets.
type engine struct {
	log     *slog.Logger
	targets []reconcile.Target  // of all stages
	loops   []*reconcile.Loop   // by target
	stages  [][]*reconcile.Loop // the same
	merge   *source.Merge
	workers []worker

	mu        sync.Mutex
	current   *model.State // nil: none yet
	changed   chan struct{}
	notServed []notServed
	broken    map[string]string // worker → why it ended
}

func newEngine(p parts, log *slog.Logger) *engine {
	e := &engine{
		log: log, targets: slices.Concat(p.targets...), workers: p.workers, changed: make(chan struct{}), broken: map[string]string{},
		merge: source.New(source.Config{Sources: p.sources, Complete: p.complete}),
	}
	for _, stage := range p.targets {
		var loops []*reconcile.Loop
		for _, t := range stage {
			loops = append(loops, reconcile.New(t, reconcile.Config{Log: log}))
		}
		e.loops, e.stages = append(e.loops, loops...), append(e.stages, loops)
	}
	return e
}

// run returns when ctx has ended and everything it started has returned.
func (e *engine) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, l := range e.loops {
		wg.Go(func() { l.Run(ctx) })
	}
	wg.Go(func() { e.relay(ctx) })
	for _, w := range e.workers {
		wg.Go(func() { e.keep(ctx, w) })
	}
	if err := e.merge.Run(ctx, e.emit); err != nil {
		e.log.Error("merge sources", "error", err)
	}
}

// emit notes a new state, which relay hands on.
func (e *engine) emit(s *model.State) {
	e.mu.Lock()
	e.current = s
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()

	missing := unserved(s, e.targets) // while the targets are at work
	e.mu.Lock()
	news := slices.DeleteFunc(slices.Clone(missing), func(n notServed) bool {
		return slices.ContainsFunc(e.notServed, n.equal)
	})
	e.notServed = missing
	e.mu.Unlock()
	e.log.Info("desired state", "generation", s.Generation, "services", len(s.Services))
	for _, n := range news {
		e.log.Warn("not served yet", "feature", n.feature, "services", n.services)
	}
	for _, p := range e.merge.Problems() {
		e.log.Warn("desired state has a problem", "problem", p)
	}
}

// lead is how long a stage of targets may keep a state from the next one. What
// is not done by then (an interface that comes later) must not hold up the rest.
const lead = time.Second

// relay hands the newest state to the stages of targets, one after the other,
// until ctx ends.
func (e *engine) relay(ctx context.Context) {
	var last *model.State
	for {
		s, err := e.await(ctx, func(s *model.State) bool { return s != last })
		if err != nil {
			return
		}
		last = s
		for i, stage := range e.stages {
			if i > 0 {
				e.tried(ctx, e.stages[i-1], s.Generation)
			}
			for _, l := range stage {
				l.Submit(s)
			}
		}
	}
}

// tried waits until the loops have tried to apply the generation, or lead has
// passed.
func (e *engine) tried(ctx context.Context, loops []*reconcile.Loop, generation uint64) {
	ctx, cancel := context.WithTimeout(ctx, lead)
	defer cancel()
	for _, l := range loops {
		if l.Tried(ctx, generation) != nil {
			return
		}
	}
}

// state is the newest one; before the first it is empty, with generation 0.
func (e *engine) state() *model.State {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current == nil {
		return &model.State{}
	}
	return e.current
}

// kick has the given targets look again.
func (e *engine) kick(targets ...reconcile.Target) {
	for i, t := range e.targets {
		if slices.Contains(targets, t) {
			e.loops[i].Kick()
		}
	}
}

// applied waits until the given targets, or all if none is given, have
// applied the generation.
func (e *engine) applied(ctx context.Context, generation uint64, targets ...reconcile.Target) error {
	for i, l := range e.loops {
		if len(targets) > 0 && !slices.Contains(targets, e.targets[i]) {
			continue
		}
		if err := l.Wait(ctx, generation); err != nil {
			return fmt.Errorf("wait for target %s: %w", e.targets[i].Name(), err)
		}
	}
	return nil
}

// await returns the first state that is as wanted.
func (e *engine) await(ctx context.Context, wanted func(*model.State) bool) (*model.State, error) {
	for {
		e.mu.Lock()
		s, changed := e.current, e.changed
		e.mu.Unlock()
		if s != nil && wanted(s) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// settled waits until every target has applied the newest state and every
// workload in it has the replicas it should have.
func (e *engine) settled(ctx context.Context) error {
	for {
		s, err := e.await(ctx, populated)
		if err != nil {
			return err
		}
		if err := e.applied(ctx, s.Generation); err != nil {
			return err
		}
		if e.state() == s {
			return nil
		}
	}
}

func populated(s *model.State) bool {
	for i := range s.Services {
		svc := s.Services[i]
		if len(svc.Backends) < admin.Wanted(svc) {
			return false
		}
	}
	return true
}

// keep runs a worker until ctx ends.
func (e *engine) keep(ctx context.Context, w worker) {
	const slowest = 30 * time.Second
	wait := 100 * time.Millisecond
	for {
		begun := time.Now()
		// One that has run for a minute is well again.
		well := time.AfterFunc(time.Minute, func() { e.setBroken(w.name, "") })
		err := w.run(ctx)
		well.Stop()
		if ctx.Err() != nil {
			return
		}
		why := "ended"
		if err != nil {
			why = err.Error()
		}
		e.setBroken(w.name, why)
		if time.Since(begun) > time.Minute {
			wait = 100 * time.Millisecond
		}
		e.log.Error("worker ended, will be started again", "worker", w.name, "error", why, "in", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, slowest)
	}
}

func (e *engine) setBroken(worker, why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken[worker] = why
}

// problems is what a person should know of sources and workers.
func (e *engine) problems() []string {
	out := e.merge.Problems()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.workers {
		if why := e.broken[w.name]; why != "" {
			out = append(out, w.name+": last ended with: "+why)
		}
	}
	return out
}

// missing lists what the newest state asks for and no target serves.
func (e *engine) missing() []notServed {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.notServed
}
