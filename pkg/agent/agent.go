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
	"path/filepath"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
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

	parts  parts
	engine *engine
	begun  time.Time

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

// Run runs the agent until Stop, or until ctx ends, which stops it at once and
// leaves workloads to the next agent. The error is a *ConfigError, a
// *HeldError or what kept the agent from starting.
func (a *Agent) Run(ctx context.Context) error {
	if _, err := Check(a.cfg.ConfigPath); err != nil {
		return err
	}
	lock, note, err := acquire(a.cfg.RunDir, a.name)
	if err != nil {
		return err
	}
	defer lock.release()
	if note != "" {
		a.cfg.Log.Warn(note)
	}
	if err := os.MkdirAll(a.cfg.StateDir, 0o750); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	a.begun = time.Now()
	a.parts, err = a.build(a)
	if err != nil {
		return err
	}
	defer a.parts.close()
	a.engine = newEngine(a.parts, a.cfg.Log)
	srv, err := admin.Listen(admin.ServerConfig{RunDir: a.cfg.RunDir, Views: a.views(), Log: a.cfg.Log})
	if err != nil {
		return err
	}
	a.cfg.Log.Info("fairlead runs", "version", a.cfg.Build.Version, "pid", os.Getpid(), "config", a.cfg.ConfigPath, "run", a.cfg.RunDir)
	if err := a.serve(ctx, srv); err != nil {
		return err
	}
	a.cfg.Log.Info("fairlead has stopped; pinned programs go on forwarding", "run", a.cfg.RunDir)
	return nil
}

// serve runs everything and returns when all of it has ended. The error is
// that of a source without which there is nothing to serve, or of the stop.
func (a *Agent) serve(ctx context.Context, srv *admin.Server) error {
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
	wg.Go(func() { a.announce(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-a.parts.fatal:
			return err
		case <-a.reloads:
			a.parts.reload()
		case <-a.stopping:
			return a.drain(ctx)
		}
	}
}

// announce calls Started once the first state is in force.
func (a *Agent) announce(ctx context.Context) {
	if a.cfg.Started == nil {
		return
	}
	wait, cancel := context.WithTimeout(ctx, a.cfg.Settle)
	defer cancel()
	_ = a.engine.settled(wait) // a status that is not ready says why
	select {
	case <-ctx.Done():
	case <-a.stopping:
	default:
		a.cfg.Started(a.status(), a.services())
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
