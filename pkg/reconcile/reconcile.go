// SPDX-License-Identifier: Apache-2.0

// Package reconcile keeps targets equal to the desired state: one Loop per
// Target, in which the newest state wins, errors are retried with backoff, and
// a periodic full pass mends what something else changed. It knows no target.
package reconcile

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Target makes one part of the world equal to a state.
type Target interface {
	Name() string
	// Serves lists the features this target makes real. What a state uses and
	// no target serves is reported as "not served yet".
	Serves() []model.Feature
	// Apply makes the world equal to the state, or says why not; then it is
	// called again with the newest state. The same state twice does no work
	// but mend what drifted. Calls never overlap.
	Apply(ctx context.Context, s *model.State) error
}

// Config tunes a Loop; the zero value is production.
type Config struct {
	RetryMin time.Duration // first retry after an error; default 50 ms, doubled up to RetryMax
	RetryMax time.Duration // default 10 s
	Full     time.Duration // time between full passes, or 20 times what one takes; default 1 min
	Log      *slog.Logger  // default slog.Default()
}

// Status is what a person is told about a target.
type Status struct {
	Target     string    `json:"target"`
	Generation uint64    `json:"generation"` // last state applied without an error
	Error      string    `json:"error,omitempty"`
	Since      time.Time `json:"since,omitzero"` // since when the error holds
	Applies    uint64    `json:"applies"`
	Errors     uint64    `json:"errors"`
}

// Loop drives one target. Create it with New, run it once.
type Loop struct {
	cfg    Config
	target Target
	wake   chan struct{}

	mu      sync.Mutex
	desired *model.State
	kicked  bool
	tried   uint64 // generation of the last state given to the target
	status  Status
	changed chan struct{} // closed and replaced at every change of status
}

// New makes the loop of a target.
func New(t Target, cfg Config) *Loop {
	if cfg.RetryMin == 0 {
		cfg.RetryMin = 50 * time.Millisecond
	}
	if cfg.RetryMax == 0 {
		cfg.RetryMax = 10 * time.Second
	}
	if cfg.Full == 0 {
		cfg.Full = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Loop{
		cfg: cfg, target: t, wake: make(chan struct{}, 1),
		status: Status{Target: t.Name()}, changed: make(chan struct{}),
	}
}

// Submit replaces the desired state; states in between are never applied.
func (l *Loop) Submit(s *model.State) {
	l.mu.Lock()
	l.desired = s
	l.mu.Unlock()
	l.notify()
}

// Kick asks for another pass over the current state, because something beside
// the state changed (a route, an interface).
func (l *Loop) Kick() {
	l.mu.Lock()
	l.kicked = true
	l.mu.Unlock()
	l.notify()
}

func (l *Loop) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Status tells how far the target is.
func (l *Loop) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// Wait returns once the target has applied the given generation or a newer
// one, or with ctx's error.
func (l *Loop) Wait(ctx context.Context, generation uint64) error {
	return l.until(ctx, func() bool { return l.status.Error == "" && l.status.Generation >= generation })
}

// Tried returns once the target has been given the generation or a newer one,
// whether it then applied it or said why not, or with ctx's error.
func (l *Loop) Tried(ctx context.Context, generation uint64) error {
	return l.until(ctx, func() bool { return l.tried >= generation })
}

// until waits for what only record changes; l.mu is held when it is asked.
func (l *Loop) until(ctx context.Context, done func() bool) error {
	for {
		l.mu.Lock()
		ok, changed := done(), l.changed
		l.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// Run applies states until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	var retry time.Duration
	timer := time.NewTimer(l.cfg.Full)
	defer timer.Stop()
	for {
		full := false
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
			full = true
		}
		l.mu.Lock()
		s, due := l.desired, full || l.kicked || retry > 0 || l.status.Applies == 0
		due = due || l.desired != nil && l.desired.Generation != l.status.Generation
		l.kicked = false
		l.mu.Unlock()
		if s == nil || !due {
			continue
		}
		begun := time.Now()
		err := l.target.Apply(ctx, s)
		if ctx.Err() != nil {
			return
		}
		l.record(s, err)
		next := max(l.cfg.Full, 20*time.Since(begun))
		if err != nil {
			retry = min(max(2*retry, l.cfg.RetryMin), l.cfg.RetryMax)
			next = retry
		} else {
			retry = 0
		}
		timer.Reset(next)
	}
}

func (l *Loop) record(s *model.State, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Applies++
	l.tried = s.Generation
	if err != nil {
		l.status.Errors++
		if l.status.Error != err.Error() {
			l.status.Error, l.status.Since = err.Error(), time.Now()
			l.cfg.Log.Error("apply state", "target", l.status.Target, "generation", s.Generation, "error", err)
		}
	} else {
		if l.status.Error != "" {
			l.cfg.Log.Info("target healed", "target", l.status.Target, "generation", s.Generation)
		}
		l.status.Generation, l.status.Error, l.status.Since = s.Generation, "", time.Time{}
	}
	close(l.changed)
	l.changed = make(chan struct{})
}
