// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
)

// replica is one replica and what its keeper, the goroutine that alone drives
// it, knows. The lock of the Runner guards what others read or write too.
type replica struct {
	id    string
	rec   record
	log   string
	paths paths

	spec   *activator.Spec // nil: adopted, and not yet known whether it is wanted
	phase  activator.Phase
	reason string
	since  time.Time
	next   time.Time
	// hopeless: there is no program to start.
	hopeless bool
	queued   bool          // it waits for its turn to start
	delay    time.Duration // wait before the next restart
	proc     *proc         // nil: no process; only the keeper changes it
	made     bool          // it has a record, and maybe more
	stop     chan struct{} // closed: it is to go
	known    chan struct{} // closed: spec is set
	running  bool          // its keeper runs
}

func (rep *replica) public() activator.Replica {
	out := activator.Replica{
		ID: rep.id, Service: rep.rec.Service, Driver: "process",
		Phase: rep.phase, Reason: rep.reason, Addr4: rep.rec.Addr4, Addr6: rep.rec.Addr6, Port: rep.rec.Port,
		Since: rep.since, Next: rep.next, Restarts: rep.rec.Restarts, Log: rep.log, Hopeless: rep.hopeless, Queued: rep.queued,
	}
	if rep.proc != nil {
		out.PID, out.Started = rep.proc.pid, rep.rec.Since
	}
	return out
}

// look copies what the keeper shares with others.
func (r *Runner) look(rep *replica) (activator.Phase, record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rep.phase, rep.rec
}

// enter changes the phase. The caller holds the lock.
func (r *Runner) enter(rep *replica, phase activator.Phase, reason string) {
	if rep.phase != phase {
		rep.since = r.cfg.Now()
	}
	rep.phase, rep.reason, rep.next, rep.hopeless = phase, reason, time.Time{}, false
}

// retireLocked tells the keeper that the replica is to go.
func (r *Runner) retireLocked(rep *replica, why string) {
	select {
	case <-rep.stop:
		return
	default:
	}
	rep.rec.Stopping = true
	r.enter(rep, activator.Stopping, why)
	close(rep.stop)
}

// keep drives one replica until it is removed or ctx ends; then its process
// goes on without a keeper.
func (r *Runner) keep(ctx context.Context, rep *replica) {
	for {
		if stopped(rep) {
			r.retire(ctx, rep)
			return
		}
		if rep.proc == nil && !r.awaitStart(ctx, rep) {
			if ctx.Err() != nil {
				return
			}
			continue // stopped meanwhile
		}
		reason, hopeless := "", false
		release := func() {}
		if rep.proc == nil {
			var err error
			if release, err = r.takeTurn(ctx, rep); err != nil {
				continue // stopped, or ctx ended
			}
			if err = r.start(rep); err != nil {
				reason, hopeless = err.Error(), errors.Is(err, errNoProgram)
			}
		}
		if rep.proc != nil {
			reason = r.watch(ctx, rep, release)
		}
		release()
		if ctx.Err() != nil {
			return
		}
		if !stopped(rep) {
			r.fall(rep, reason, hopeless)
		}
	}
}

func stopped(rep *replica) bool {
	select {
	case <-rep.stop:
		return true
	default:
		return false
	}
}

// awaitStart waits until the replica may be started; false: ctx ended or it is
// to go.
func (r *Runner) awaitStart(ctx context.Context, rep *replica) bool {
	select {
	case <-ctx.Done():
		return false
	case <-rep.stop:
		return false
	case <-rep.known:
	}
	r.mu.Lock()
	wait := rep.next.Sub(r.cfg.Now())
	r.mu.Unlock()
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-rep.stop:
		return false
	case <-timer.C:
		return true
	}
}

// watch waits until the process has ended (and says how), the replica is to
// go, or ctx ends; meanwhile it finds out when the replica is ready, and calls
// started when it is, or others may start beside it.
func (r *Runner) watch(ctx context.Context, rep *replica, started func()) (how string) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	exited := make(chan string, 1)
	wg.Go(func() {
		if how, ok := rep.proc.wait(ctx); ok {
			exited <- how
		}
	})
	if phase, _ := r.look(rep); phase == activator.Starting {
		starting, done := context.WithCancel(ctx)
		wg.Go(func() {
			defer done()
			r.probe(ctx, rep)
		})
		wg.Go(func() {
			r.crowd(starting, rep.paths.cgroup)
			started()
		})
	}
	select {
	case <-ctx.Done():
	case <-rep.stop:
	case how = <-exited:
		cancel()
		wg.Wait() // the prober must not call it ready after this
		r.buried(rep)
	}
	return how
}

// buried forgets the ended process. What it left running in its cgroup is
// ended too, so that the next one finds its ports free.
func (r *Runner) buried(rep *replica) {
	if err := killCgroup(rep.paths.cgroup); err != nil {
		r.cfg.Log.Warn("end what a replica left", "replica", rep.id, "error", err)
	}
	r.update(func() {
		rep.proc.close()
		rep.proc = nil
	})
}

// fall puts the replica, which has no process, into backoff.
func (r *Runner) fall(rep *replica, reason string, hopeless bool) {
	_, rec := r.look(rep)
	if last := lastLine(rep.log, rec.LogStart); last != "" && rec.PID != 0 {
		reason += ": " + last
	}
	r.update(func() {
		now := r.cfg.Now()
		served := time.Duration(-1)
		if rep.rec.Ready {
			served = now.Sub(rep.rec.Since)
		}
		rep.delay = r.backoff.Next(rep.delay, served)
		rep.rec.PID, rep.rec.Start, rep.rec.Ready, rep.rec.Port = 0, "", false, 0
		rep.rec.Restarts++
		if !stopped(rep) {
			r.enter(rep, activator.Backoff, reason)
			rep.hopeless = hopeless
			rep.next = now.Add(rep.delay)
		}
	})
	r.cfg.Log.Warn("replica ended", "replica", rep.id, "reason", reason, "again-in", rep.delay)
}
