// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/activator"
)

// stopTime is what a process has between SIGTERM and SIGKILL.
const stopTime = 10 * time.Second

// retire lets the replica's connections finish, stops it and removes it. When
// ctx ends first, the next agent goes on with it.
func (r *Runner) retire(ctx context.Context, rep *replica) {
	if _, rec := r.look(rep); rep.made {
		if err := rec.save(rep.paths.record); err != nil {
			r.cfg.Log.Warn("note that a replica is to go", "replica", rec.ID, "error", err)
		}
	}
	r.cfg.Log.Debug("replica is to go", "replica", rep.id)
	r.drain(ctx, rep)
	r.cfg.Log.Debug("replica is told to end", "replica", rep.id)
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, r.cfg.BackoffMax) {
		terminate(ctx, rep)
		if ctx.Err() != nil && rep.made && populated(rep.paths.cgroup) {
			return // not ours to kill: it may have time left
		}
		err := r.remove(rep)
		if err == nil {
			return
		}
		r.cfg.Log.Error("remove replica", "replica", rep.id, "error", err)
		r.update(func() { rep.reason = err.Error() })
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// drain waits until the replica has no connections any more, at most for the
// service's drain time.
func (r *Runner) drain(ctx context.Context, rep *replica) {
	_, rec := r.look(rep)
	if rep.proc == nil || !rec.Ready {
		return
	}
	r.mu.Lock()
	idle := r.wanted[rec.Service].spec.Idle
	r.mu.Unlock()
	rec.sockets().Drain(ctx, rec.Drain, idle, rep.proc.ended)
}

// terminate asks every process of the replica to end, and waits for it.
func terminate(ctx context.Context, rep *replica) {
	if !rep.made {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	signalCgroup(rep.paths.cgroup, unix.SIGTERM)
	waitCgroup(ctx, rep.paths.cgroup)
}

// remove kills what still runs of the replica and removes all that was made
// for it.
func (r *Runner) remove(rep *replica) error {
	if rep.made {
		if _, err := teardown(rep.paths); err != nil {
			return err
		}
	}
	if err := r.cfg.Forget(rep.id); err != nil {
		return err
	}
	r.cfg.IPAM.Release(rep.id)
	r.update(func() {
		if rep.proc != nil {
			rep.proc.bury()
			rep.proc = nil
		}
		delete(r.replicas, rep.id)
	})
	r.cfg.Log.Info("replica removed", "replica", rep.id)
	return nil
}

// Shutdown stops every replica, also those of an earlier agent, and removes
// all that was made for them but their logs. What does not end after SIGTERM
// is killed when ctx ends, after 10 s at the latest. The Runner is of no use
// afterwards.
func (r *Runner) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	stopAll := r.stopAll
	r.mu.Unlock()
	if stopAll != nil {
		stopAll()
	}
	r.keepers.Wait()
	if err := r.adopt(); err != nil {
		return err
	}
	r.update(func() {
		for _, rep := range r.replicas {
			r.enter(rep, activator.Stopping, "fairlead is stopping")
		}
	})
	r.mu.Lock()
	var wg sync.WaitGroup
	var errs []error
	for _, rep := range r.replicas {
		wg.Go(func() {
			terminate(ctx, rep)
			if err := r.remove(rep); err != nil {
				r.mu.Lock()
				defer r.mu.Unlock()
				errs = append(errs, fmt.Errorf("remove replica %s: %w", rep.id, err))
			}
		})
	}
	r.mu.Unlock()
	wg.Wait()
	if len(errs) == 0 {
		errs = append(errs, removeFile(r.resolvConf()))
		removeEmpty(append(runDirs(r.cfg.RunDir), cgroupsIn(r.cfg.Cgroup, r.cfg.RunDir)))
	}
	return errors.Join(errs...)
}
