// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/dockerd"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/rollout"
)

// adoptTime bounds the wait for a daemon that may have containers of an earlier
// agent, before others are published without them.
const adoptTime = 3 * time.Second

// Run adopts what an earlier agent left and keeps the wanted replicas running
// until ctx ends or Shutdown is called. A daemon that is away is waited for,
// and what ran is taken to run on. At most one Run may go on at a time.
func (r *Runner) Run(ctx context.Context, changed func()) error {
	host, err := r.cfg.Host(ctx)
	if err != nil {
		return err
	}
	d, err := dockerd.Dial(host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer func() {
		cancel()
		r.keepers.Wait()
		following.Wait()
		r.mu.Lock()
		r.changed, r.stopAll = func() {}, nil
		stopHearing := r.place.stop
		r.place = place{}
		r.mu.Unlock()
		if stopHearing != nil {
			stopHearing()
		}
		_ = d.Close()
	}()
	r.mu.Lock()
	closed := r.closed
	r.daemon, r.stopAll = d, cancel
	r.mu.Unlock()
	if closed {
		return nil
	}
	synced := make(chan struct{})
	follow := sync.OnceFunc(func() {
		following.Go(func() { r.follow(ctx, sync.OnceFunc(func() { close(synced) })) })
	})
	if r.leftHere() {
		follow()
		select {
		case <-ctx.Done():
			return nil
		case <-synced:
		case <-time.After(adoptTime):
			r.cfg.Log.Error("containers of an earlier agent are not known yet, the rest goes on without them", "daemon", host)
		}
	}
	r.mu.Lock()
	r.changed = changed
	r.mu.Unlock()
	changed()
	for {
		if r.reconcile(ctx) {
			follow()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.kick:
		}
	}
}

// follow keeps up with the daemon's containers until ctx ends.
func (r *Runner) follow(ctx context.Context, synced func()) {
	r.daemon.Follow(ctx, dockerd.Watch{
		Labels: []string{labelOwner + "=" + r.owner},
		Synced: func(all []container.Summary) {
			r.settle(ctx)
			r.adopt(ctx, all)
			synced()
		},
		Event: r.event,
		Lost:  r.lost,
	})
}

// lost has keepers wait. What ran is taken to run on: the daemon's API is not
// the containers.
func (r *Runner) lost(err error) {
	why := r.daemon.Explain(err)
	r.cfg.Log.Error("the Docker daemon is away, its containers are taken to run on", "daemon", r.daemon.Host(), "error", why)
	r.update(func() {
		r.away = why
		select {
		case <-r.up:
			r.up = make(chan struct{})
		default:
		}
	})
}

// event has the keeper of a container look at it.
func (r *Runner) event(m events.Message) {
	switch m.Action {
	case events.ActionDie, events.ActionDestroy, events.ActionStart, events.ActionPause, events.ActionUnPause:
	default:
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if rep := r.replicas[m.Actor.Attributes[labelReplica]]; rep != nil {
		rep.touch()
	}
}

// adopt compares what the daemon has with what is known, and lets keepers work.
// A container that serves is ready at once, so that no state without it is ever
// published.
func (r *Runner) adopt(ctx context.Context, all []container.Summary) {
	var wg sync.WaitGroup
	for _, c := range all {
		found, ok := recognize(r.owner, c)
		if !ok {
			continue
		}
		wg.Go(func() {
			b := box{}
			if c.State == container.StateRunning || c.State == container.StatePaused {
				_ = r.work(ctx, func(ctx context.Context) (err error) {
					b, err = r.inspect(ctx, c.ID) // of one that cannot be seen there is none: its name is taken
					found.box = b
					if b.ready = err == nil && found.sockets().Unready(ctx) == ""; !b.ready && err == nil {
						b.port = found.sockets().Other(ctx)
						b.ready = b.port != 0
					}
					return err
				})
			}
			r.adoptOne(found, b)
		})
	}
	wg.Wait()
	r.update(func() {
		r.away = ""
		select {
		case <-r.up:
		default:
			close(r.up)
		}
		for _, rep := range r.replicas {
			rep.touch()
		}
	})
}

func (r *Runner) adoptOne(found *replica, b box) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := r.replicas[found.id]
	if rep != nil && (rep.box.id != "" || r.isUp()) {
		return // its keeper looks after it
	}
	if rep == nil {
		rep = found
		rep.since = r.cfg.Now()
		r.replicas[rep.id] = rep
	}
	rep.hash, rep.ports, rep.any, rep.drain, rep.box = found.hash, found.ports, found.any, found.drain, b
	switch {
	case b.id == "":
		if rep.want == nil {
			r.enter(rep, activator.Backoff, "ended while no agent ran")
		}
		return
	case b.ready:
		r.enter(rep, activator.Ready, "")
	default:
		r.enter(rep, activator.Starting, "")
	}
	r.cfg.Log.Info("replica adopted", "replica", rep.id, "container", b.id[:min(12, len(b.id))], "phase", string(rep.phase))
}

// isUp tells whether keepers may work. The caller holds the lock.
func (r *Runner) isUp() bool {
	select {
	case <-r.up:
		return true
	default:
		return false
	}
}

// reconcile compares what is wanted with what there is, and sees that every
// replica has a keeper. It tells whether the daemon is needed.
func (r *Runner) reconcile(ctx context.Context) bool {
	r.mu.Lock()
	defer func() {
		changed := r.changed
		r.mu.Unlock()
		changed()
	}()
	if r.closed || ctx.Err() != nil {
		return false
	}
	if r.applied {
		services := map[model.ServiceName]bool{}
		for name := range r.wanted {
			services[name] = true
		}
		for _, rep := range r.replicas {
			services[rep.service] = true
		}
		for _, name := range slices.SortedFunc(maps.Keys(services), model.ServiceName.Compare) {
			r.reconcileService(name)
		}
	}
	for _, rep := range r.replicas {
		if !rep.running {
			rep.running = true
			r.keepers.Go(func() {
				r.keep(ctx, rep)
				r.mu.Lock()
				rep.running = false
				r.mu.Unlock()
			})
		}
	}
	return len(r.wanted) > 0
}

func (r *Runner) reconcileService(name model.ServiceName) {
	w, wanted := r.wanted[name]
	var have []rollout.Candidate
	for _, rep := range r.of(name) {
		c := rollout.Candidate{ID: rep.id, Current: wanted && rep.hash == w.hash, Ready: rep.phase == activator.Ready}
		have = append(have, c)
		if c.Current {
			rep.learn(w)
		}
	}
	n := 0
	if wanted {
		n = max(0, w.spec.Replicas)
	}
	start, stop := rollout.Plan(n, have)
	for _, id := range stop {
		rep := r.replicas[id]
		r.enter(rep, activator.Stopping, rollout.Why(wanted, rep.hash == w.hash))
		close(rep.stop)
	}
	for range start {
		rep := newReplica(rollout.FreeID(name, func(id string) bool { return r.replicas[id] != nil }), name, w.hash)
		r.enter(rep, activator.Starting, "being set up")
		rep.learn(w)
		r.replicas[rep.id] = rep
	}
}

// of lists the replicas of a service that are to stay, by number.
func (r *Runner) of(name model.ServiceName) []*replica {
	var reps []*replica
	for _, rep := range r.replicas {
		if rep.service == name && !stopped(rep) {
			reps = append(reps, rep)
		}
	}
	slices.SortFunc(reps, func(a, b *replica) int { return rollout.CompareIDs(a.id, b.id) })
	return reps
}

// ended tells whether the replica's container has ended, and how.
func (r *Runner) ended(ctx context.Context, rep *replica) (how string, ended bool) {
	b, _ := r.look(rep)
	got, err := dockerd.Ask(ctx, func(ctx context.Context) (client.ContainerInspectResult, error) {
		return r.daemon.ContainerInspect(ctx, b.id, client.ContainerInspectOptions{})
	})
	switch {
	case dockerd.Missing(err):
		return "its container was removed by somebody else", true
	case err != nil:
		if !dockerd.Away(err) && !errors.Is(err, context.Canceled) {
			r.cfg.Log.Warn("look at a container", "replica", rep.id, "error", r.daemon.Explain(err))
		}
		return "", false // there will be a full list
	}
	s := got.Container.State
	switch {
	case s == nil || s.Restarting:
		return "", false
	case s.Running && !startedAt(s).Equal(b.started):
		return "its container was restarted by somebody else", true
	case s.Running:
		return "", false
	}
	return r.epitaph(ctx, got.Container), true
}
