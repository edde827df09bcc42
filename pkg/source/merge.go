// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Config is what a Merge needs.
type Config struct {
	Sources []Source
	// Grace bounds the wait for sources that do not sync; after it the state
	// is published from those that did. Default 10 s.
	Grace time.Duration
	// Complete fills in what no source can know alone (virtual IPs), before
	// the state is published. Its error is reported and does not stop the
	// publication. It replaces the services it changes by others of its own
	// (and replaces equal ones by the same): the list is its own, they are not. Optional.
	Complete func(*model.State) error
}

// Status is what a person is told about one source.
type Status struct {
	Name   string `json:"name"`
	Synced bool   `json:"synced"`
	Error  string `json:"error,omitempty"`
}

// Merge joins Parts into States. Create it with New, run it once.
type Merge struct {
	cfg    Config
	joiner joiner // of Run alone

	mu       sync.Mutex
	parts    []*Part // by source; nil: not synced
	errs     []error // by source: why it ended
	problems []string
	current  *model.State
}

// New makes a Merge over the sources; earlier ones win conflicts.
func New(cfg Config) *Merge {
	if cfg.Grace == 0 {
		cfg.Grace = 10 * time.Second
	}
	if cfg.Complete == nil {
		cfg.Complete = func(*model.State) error { return nil }
	}
	return &Merge{cfg: cfg, joiner: joiner{sources: cfg.Sources}, parts: make([]*Part, len(cfg.Sources)), errs: make([]error, len(cfg.Sources))}
}

// Run starts every source and calls emit, from one goroutine, with each new
// state. Nothing is emitted before every source has synced or the grace
// period ended, so that a restart never removes what had merely not arrived.
// It returns when ctx ends and every source has returned.
func (m *Merge) Run(ctx context.Context, emit func(*model.State)) error {
	changed := make(chan struct{}, 1)
	notify := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, src := range m.cfg.Sources {
		wg.Go(func() {
			err := src.Run(ctx, func(p Part) { m.publish(i, &p); notify() })
			if ctx.Err() == nil {
				if err == nil {
					err = errors.New("ended")
				}
				m.fail(i, fmt.Errorf("run source %s: %w", src.Name(), err))
				notify()
			}
		})
	}
	grace := time.NewTimer(m.cfg.Grace)
	defer grace.Stop()
	open := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-grace.C:
			open = true
		case <-changed:
		}
		if !open && !m.synced() {
			continue
		}
		open = true
		if s, ok := m.build(); ok {
			emit(s)
		}
	}
}

// Statuses tells of each source, in order.
func (m *Merge) Statuses() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Status, len(m.parts))
	for i, src := range m.cfg.Sources {
		out[i] = Status{Name: src.Name(), Synced: m.parts[i] != nil}
		if m.errs[i] != nil {
			out[i].Error = m.errs[i].Error()
		}
	}
	return out
}

// Problems lists what could not be merged into the last state, in words.
func (m *Merge) Problems() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.problems)
}

func (m *Merge) publish(i int, p *Part) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.parts[i] = p
}

func (m *Merge) fail(i int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errs[i] = err
}

func (m *Merge) synced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !slices.Contains(m.parts, nil)
}

// build joins the parts; ok is false when the result equals the current state.
func (m *Merge) build() (s *model.State, ok bool) {
	m.mu.Lock()
	parts := slices.Clone(m.parts)
	m.mu.Unlock()

	s, problems := m.joiner.join(parts)
	s.Services = slices.Clone(s.Services)
	if err := m.cfg.Complete(s); err != nil {
		problems = append(problems, err.Error())
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.problems = problems
	if m.current != nil {
		if m.current.Equal(s) {
			return nil, false
		}
		s.Generation = m.current.Generation
	}
	s.Generation++
	m.current = s
	return s, true
}
