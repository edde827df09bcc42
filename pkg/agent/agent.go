// SPDX-License-Identifier: Apache-2.0

// Package agent builds and runs all of fairlead: it is the only package that
// knows sources and targets, and it knows them as two lists (build.go). It has
// no effect outside its directories, its network namespace and the kernel's
// BPF objects; signals and output are the command's.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/health"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
)

// Config is what an Agent needs.
type Config struct {
	ConfigPath string // of the YAML file
	StateDir   string // what must outlive a reboot: virtual IPs, drains, logs
	RunDir     string // socket, lock, pins
	Build      metrics.Build
	Log        *slog.Logger // default slog.Default()
	// Budget bounds a graceful stop. Default 10 s.
	Budget time.Duration
	// Settle bounds the wait before Started is called. Default 10 s.
	Settle time.Duration
	// Takeover has the agent take the place of one that runs with the same
	// directories, if there is one.
	Takeover bool
	// Drain bounds how long connections of clients may go on here after a
	// successor has taken the place. Default 1 h.
	Drain time.Duration
	// Successor starts another agent in this one's place, with Takeover, and the
	// environment added to its own. nil: Upgrade is refused.
	Successor func(env []string) (*exec.Cmd, error)
	// Superseded is called once a successor has taken the place. Optional.
	Superseded func()
	// Started is called once, when everything of the first state is in force
	// or Settle has passed. Optional.
	Started func(admin.Status, []admin.Service)
}

// ConfigError says that the first config is invalid; it prints as lines of
// FILE:LINE:COL: field: problem.
type ConfigError struct{ Err error }

// Error is the lines.
func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap is the file source's error.
func (e *ConfigError) Unwrap() error { return e.Err }

// Agent is one running fairlead. Create it with New, run it once.
type Agent struct {
	cfg   Config
	build func(*Agent) (parts, error)
	name  string // abstract socket of the lock

	// Of the process.
	lock       *lock
	sockets    *sockets
	fronts     *fronts       // nil until the first term has built them
	begin      chan struct{} // closed once the place is this agent's
	taking     bool          // it is another agent's at first
	successors chan *successor
	taken      succession
	older      older
	early      *bpf.Objects    // opened before the first term; nil: not, or in use
	failed     []health.Failed // replicas, as the last term or a predecessor left them
	begun      time.Time
	checked    *file.Checked // the config as it was at the start; nil after the first term has it

	// Of the present term.
	parts  parts
	engine *engine
	over   <-chan struct{} // closed at its end

	stopOnce sync.Once
	stopping chan struct{} // closed by Stop
	reloads  chan struct{}
}

// New checks the config and makes an agent; nothing is touched yet.
func New(cfg Config) (*Agent, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Budget == 0 {
		cfg.Budget = 10 * time.Second
	}
	if cfg.Drain == 0 {
		cfg.Drain = time.Hour
	}
	if cfg.Settle == 0 {
		cfg.Settle = 10 * time.Second
	}
	for _, p := range []*string{&cfg.ConfigPath, &cfg.StateDir, &cfg.RunDir} {
		if *p == "" {
			return nil, errors.New("agent needs a config file, a state directory and a run directory")
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", *p, err)
		}
		*p = abs
	}
	return &Agent{
		cfg: cfg, build: build, name: abstractName,
		begin: make(chan struct{}), successors: make(chan *successor),
		stopping: make(chan struct{}), reloads: make(chan struct{}, 1),
	}, nil
}

// Reload has the config file read again, at once.
func (a *Agent) Reload() {
	select {
	case a.reloads <- struct{}{}:
	default:
	}
}

// Stop begins the graceful stop: workloads are taken out of the desired state,
// then stopped, within the budget; then Run returns. Programs stay pinned and
// go on forwarding to replicas that fairlead does not run.
func (a *Agent) Stop() { a.stopOnce.Do(func() { close(a.stopping) }) }

// Run runs the agent until Stop, until a successor has its place and the
// connections left here have ended, or until ctx ends, which stops it at once
// and leaves workloads to the next agent. The error is a *ConfigError, a
// *HeldError or what kept the agent from starting.
func (a *Agent) Run(ctx context.Context) error {
	var err error
	if a.checked, err = Check(a.cfg.ConfigPath); err != nil {
		return err
	}
	a.sockets = newSockets(a.cfg.Log)
	defer func() {
		if a.early != nil { // the place was not to be had
			_ = a.early.Close()
		}
	}()
	from, err := a.enter(ctx)
	if err != nil {
		return err
	}
	a.taking = from != nil
	defer func() { a.lock.release() }()
	if err := os.MkdirAll(a.cfg.StateDir, 0o750); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	a.begun = time.Now()
	defer func() {
		if a.fronts != nil {
			a.fronts.close()
		}
	}()
	return a.reign(ctx, from)
}

// reign owns the host, in one term after the other: a term ends when a
// successor asks for the place, and another one begins if it did not take it.
func (a *Agent) reign(ctx context.Context, from *predecessor) error {
	for again := false; ; again = true {
		next, begun, err := a.term(ctx, from)
		switch {
		case next != nil:
		case err != nil && again && !begun:
			// Clients are served as things stood: no reason to end.
			a.cfg.Log.Error("begin anew after a handover that failed", "error", err, "again in", time.Second)
			select {
			case <-ctx.Done():
				return err
			case <-a.stopping:
				return err
			case <-time.After(time.Second):
			}
			continue
		default:
			return err
		}
		if a.giveWay(ctx, next) {
			return a.recede(ctx, next)
		}
		from = nil
	}
}

// term owns the host until it returns, with a successor if one asks for the
// place. begun is false if it could not begin, err then says why.
func (a *Agent) term(ctx context.Context, from *predecessor) (next *successor, begun bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.over = ctx.Done()
	if a.parts, err = a.build(a); err != nil {
		return nil, false, err
	}
	defer a.parts.close()
	a.engine = newEngine(a.parts, a.cfg.Log)
	srv, err := admin.Listen(admin.ServerConfig{RunDir: a.cfg.RunDir, Views: a.views(), Log: a.cfg.Log})
	if err != nil {
		return nil, false, err
	}
	a.cfg.Log.Info("fairlead runs", "version", a.cfg.Build.Version, "pid", os.Getpid(), "config", a.cfg.ConfigPath, "run", a.cfg.RunDir)
	next, err = a.serve(ctx, srv, from)
	switch {
	case next != nil:
		a.prepare(next) // while what is open still is
	case err == nil:
		a.cfg.Log.Info("fairlead has stopped; pinned programs go on forwarding", "run", a.cfg.RunDir)
	}
	return next, true, err
}

// serve runs everything and returns when all of it has ended. The error is
// that of a source without which there is nothing to serve, or of the stop.
func (a *Agent) serve(ctx context.Context, srv *admin.Server, from *predecessor) (*successor, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { a.engine.run(ctx) })
	wg.Go(func() {
		if err := srv.Run(ctx); err != nil {
			a.cfg.Log.Error("admin socket ended", "error", err)
		}
	})
	entered := make(chan error, 1)
	wg.Go(func() { entered <- a.settleIn(ctx, from) })
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case err := <-a.parts.fatal:
			return nil, err
		case err := <-entered:
			if err != nil {
				return nil, err
			}
			wg.Go(func() { a.announce(ctx) })
			wg.Go(func() { a.receive(ctx) })
			wg.Go(func() { a.older.watch(ctx, a.cfg.Log) })
		case next := <-a.successors:
			return next, nil
		case <-a.reloads:
			a.parts.reload()
		case <-a.stopping:
			a.older.stop(a.cfg.Budget / 2)
			return nil, a.drain(ctx)
		}
	}
}

// announce calls Started once the first state is in force.
func (a *Agent) announce(ctx context.Context) {
	wait, cancel := context.WithTimeout(ctx, a.cfg.Settle)
	defer cancel()
	if a.engine.settled(wait) == nil { // else a status that is not ready says why
		a.sockets.clear()
	}
	started := a.cfg.Started
	if a.cfg.Started = nil; started == nil {
		return
	}
	select {
	case <-ctx.Done():
	case <-a.stopping:
	default:
		started(a.status(), a.services())
	}
}

// drain stops the workloads within the budget. When ctx ends before, it
// returns at once: what is still running is left to the next agent, and
// Shutdown, which would rather kill it, to the end of the process.
func (a *Agent) drain(ctx context.Context) error {
	budget, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.Budget)
	a.cfg.Log.Info("stopping", "budget", a.cfg.Budget)
	half, cancelHalf := context.WithTimeout(ctx, a.cfg.Budget/2)
	defer cancelHalf()
	// While replicas still serve: what the fronts have begun is to end well.
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.parts.tcp.Shutdown(half); err != nil {
			a.cfg.Log.Warn("stop routing by server name", "error", err)
		}
	})
	if err := a.parts.drainFronts(half); err != nil && ctx.Err() == nil {
		a.cfg.Log.Warn("connections of clients were cut off at the end of their time", "error", err)
	}
	rest, cancelRest := context.WithTimeout(ctx, a.cfg.Budget/4)
	defer cancelRest()
	if err := a.withdraw(rest); err != nil && ctx.Err() == nil {
		a.cfg.Log.Error("take workloads out of service", "error", err)
	}
	wg.Wait()
	done := make(chan error, 1)
	go func() {
		defer cancel()
		if ctx.Err() == nil {
			done <- a.parts.shutdown(budget)
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("stop workloads: %w", err)
		}
		return nil
	case <-ctx.Done():
		return errors.New("stopped at once: workloads that still run are left to the next agent")
	}
}
