// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/dockerd"
)

// stopTime is what a container has between SIGTERM (or what its image asks for)
// and SIGKILL.
const stopTime = 10 * time.Second

// retire lets the replica's connections finish, stops its container and removes
// it. When ctx ends first, the next agent goes on with it.
func (r *Runner) retire(ctx context.Context, rep *replica) {
	b, sockets := r.look(rep)
	if b.id != "" && b.ready {
		r.mu.Lock()
		limit, idle := rep.drain, r.wanted[rep.service].spec.Idle
		r.mu.Unlock()
		sockets.Drain(ctx, limit, idle, func() bool { return b.pid != 0 && !visible(b.pid, b.id) })
	}
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, r.cfg.Backoff.Max) {
		r.mu.Lock()
		up := r.up
		r.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-up:
		}
		err := r.end(ctx, b.id, rep.id, stopTime)
		if err == nil {
			r.unnote(rep.id)
			r.update(func() { delete(r.replicas, rep.id) })
			r.cfg.Log.Info("replica removed", "replica", rep.id)
			return
		}
		if ctx.Err() == nil {
			r.cfg.Log.Error("remove replica", "replica", rep.id, "error", r.daemon.Explain(err))
			r.update(func() { rep.reason = r.daemon.Explain(err) })
			pause(ctx, wait)
		}
	}
}

// end stops a container, if there is one, and removes it.
func (r *Runner) end(ctx context.Context, id, replica string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	if id != "" {
		seconds := int(limit / time.Second)
		_, err := r.daemon.ContainerStop(ctx, id, client.ContainerStopOptions{Timeout: &seconds})
		if err != nil && !dockerd.Missing(err) {
			return err
		}
	}
	if err := r.removeContainer(ctx, replica); err != nil || r.cfg.Forget == nil {
		return err
	}
	return r.cfg.Forget(replica)
}

// removeContainer removes what has a replica's name, running or not. One of
// somebody else's is left alone: that is an error.
func (r *Runner) removeContainer(ctx context.Context, replica string) error {
	ctx, cancel := context.WithTimeout(ctx, workTime)
	defer cancel()
	name := nameOf(r.owner, replica)
	got, err := r.daemon.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if dockerd.Missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if c := got.Container.Config; c == nil || c.Labels[labelOwner] != r.owner {
		return fmt.Errorf("there is a container %s that fairlead did not make: rename it, or remove it with \"docker rm -f %s\"", name, name)
	}
	_, err = r.daemon.ContainerRemove(ctx, got.Container.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if dockerd.Conflict(err) { // somebody else removes it, as an agent that was killed since
		return r.awaitRemoval(ctx, got.Container.ID, err)
	}
	if dockerd.Missing(err) {
		return nil
	}
	return err
}

// awaitRemoval waits until a container is gone; why is returned if it stays.
func (r *Runner) awaitRemoval(ctx context.Context, id string, why error) error {
	for {
		_, err := r.daemon.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if dockerd.Missing(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return why
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Shutdown stops every replica, also those of an earlier agent, and removes
// their containers. What does not end after SIGTERM is killed when ctx ends,
// after 10 s at the latest. The Runner is of no use afterwards.
func (r *Runner) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	stopAll, changed := r.stopAll, r.changed
	for _, rep := range r.replicas {
		r.enter(rep, activator.Stopping, "fairlead is stopping")
	}
	r.mu.Unlock()
	changed()
	if stopAll != nil {
		stopAll()
	}
	r.keepers.Wait()
	if !r.leftHere() {
		return nil
	}
	host, err := r.cfg.Host(ctx)
	if err != nil {
		return err
	}
	_, err = removeAll(ctx, host, r)
	if err != nil {
		return err
	}
	return r.forgetHere()
}

// removeAll ends every container of the owner at a daemon. removed names them.
func removeAll(ctx context.Context, host string, r *Runner) (removed []string, err error) {
	d, err := dockerd.Dial(host)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	r = &Runner{cfg: r.cfg, owner: r.owner, daemon: d} // the Run's own client is closed by now
	limit := stopTime
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, max(time.Until(deadline)-2*time.Second, 0))
	}
	// The daemon itself kills what did not end; it must be asked to the last.
	ctx = context.WithoutCancel(ctx)
	all, err := dockerd.Ask(ctx, func(ctx context.Context) (client.ContainerListResult, error) {
		return d.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", labelOwner+"="+r.owner)})
	})
	if err != nil {
		return nil, fmt.Errorf("remove containers: %s", d.Explain(err))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, c := range all.Items {
		rep, ok := recognize(r.owner, c)
		if !ok {
			continue
		}
		wg.Go(func() {
			id := c.ID
			if c.State != container.StateRunning {
				id = ""
			}
			err := r.end(ctx, id, rep.id, limit)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("remove container %s: %s", nameOf(r.owner, rep.id), d.Explain(err)))
				return
			}
			removed = append(removed, "container "+nameOf(r.owner, rep.id))
		})
	}
	wg.Wait()
	return removed, errors.Join(errs...)
}
