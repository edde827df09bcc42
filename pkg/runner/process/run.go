// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
	"github.com/fairlead-lb/fairlead/pkg/runner/rollout"
)

// Run adopts what an earlier agent left and keeps the wanted replicas running
// until ctx ends or Shutdown is called. An error means that it could not
// start. At most one Run may go on at a time.
func (r *Runner) Run(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		r.keepers.Wait()
		r.mu.Lock()
		r.changed, r.stopAll = func() {}, nil
		r.mu.Unlock()
	}()
	r.mu.Lock()
	closed := r.closed
	r.changed, r.stopAll = changed, cancel
	r.mu.Unlock()
	if closed {
		return nil
	}
	if err := r.adopt(); err != nil {
		return err
	}
	changed()
	defer r.hear()()
	logs := time.NewTicker(r.cfg.LogEvery)
	defer logs.Stop()
	r.reconcile(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.kick:
		case <-logs.C:
			if r.rotateLogs() == 0 {
				continue // all sleep, and cost nothing
			}
		}
		r.reconcile(ctx)
	}
}

// adopt learns of the replicas that an earlier agent left, once.
func (r *Runner) adopt() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.adopted {
		return nil
	}
	for _, dir := range runDirs(r.cfg.RunDir) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return explain(fmt.Errorf("make run directory: %w", err))
		}
	}
	records, bad, err := loadRecords(r.cfg.RunDir, r.cfg.Cgroup)
	if err != nil {
		return err
	}
	var ids []string
	for _, rec := range records {
		if why := bad[rec.ID]; why != nil {
			r.cfg.Log.Error("replica of an earlier agent cannot be adopted; removing it", "replica", rec.ID, "error", why)
			if _, err := teardown(pathsOf(r.cfg.RunDir, rec.Cgroup, rec.ID)); err != nil {
				r.cfg.Log.Error("remove what an earlier agent left", "replica", rec.ID, "error", err)
			}
			continue
		}
		ids = append(ids, rec.ID)
		r.replicas[rec.ID] = r.adoptOne(rec)
	}
	r.cfg.IPAM.Retain(ids)
	r.adopted = true
	return nil
}

// adoptOne takes over a replica. A process that serves is ready at once, so
// that no state without it is ever published.
func (r *Runner) adoptOne(rec record) *replica {
	rep := r.newReplica(rec)
	rep.made = true
	for _, x := range rec.hops() {
		if err := r.cfg.IPAM.Reserve(x.addr, rec.ID); err != nil {
			r.cfg.Log.Error("keep address of replica", "replica", rec.ID, "error", err)
		}
	}
	rep.proc = findProc(rec)
	phase := activator.Starting
	switch {
	case rec.Stopping:
		phase = activator.Stopping
		close(rep.stop)
	case rep.proc == nil:
		r.enter(rep, activator.Backoff, "ended while no agent ran")
		return rep
	case rec.Ready:
		phase = activator.Ready
	}
	r.enter(rep, phase, "")
	if rep.proc == nil {
		return rep
	}
	err := error(nil)
	if !pinned(rep.paths.netns) { // its mount is gone, the process holds the namespace still
		err = pinNetns(fmt.Sprintf("/proc/%d/ns/net", rec.PID), rep.paths.netns)
	}
	if err == nil {
		err = connect(rec, rep.paths)
	}
	if err != nil {
		r.cfg.Log.Error("mend network of adopted replica", "replica", rec.ID, "error", err)
	}
	r.cfg.Log.Info("replica adopted", "replica", rec.ID, "pid", rec.PID, "phase", string(phase))
	return rep
}

func (r *Runner) newReplica(rec record) *replica {
	return &replica{
		id: rec.ID, rec: rec, log: r.logPath(rec.ID), paths: pathsOf(r.cfg.RunDir, rec.Cgroup, rec.ID), since: r.cfg.Now(),
		stop: make(chan struct{}), known: make(chan struct{}),
	}
}

// reconcile compares what is wanted with what there is, and sees that every
// replica has a keeper.
func (r *Runner) reconcile(ctx context.Context) {
	v4, v6 := r.network() // not under the lock: it is somebody else's code
	news := false
	r.mu.Lock()
	defer func() {
		changed := r.changed
		r.mu.Unlock()
		if news {
			changed()
		}
	}()
	if r.closed || ctx.Err() != nil {
		return
	}
	if r.applied {
		have := map[model.ServiceName][]*replica{}
		for name, w := range r.wanted {
			if w.spec.Replicas > 0 {
				have[name] = nil
			}
		}
		for _, rep := range r.replicas {
			have[rep.rec.Service] = append(have[rep.rec.Service], rep)
		}
		for _, name := range slices.SortedFunc(maps.Keys(have), model.ServiceName.Compare) {
			if r.reconcileService(name, have[name], func(rec record) bool { return rec.in(v4, v6) }) {
				news = true
			}
		}
	}
	for _, rep := range r.replicas {
		if rep.running {
			continue
		}
		rep.running = true
		r.keepers.Go(func() {
			r.keep(ctx, rep)
			r.mu.Lock()
			rep.running = false
			r.mu.Unlock()
		})
	}
}

// reconcileService does so for one service, given its replicas, and tells whether
// they change.
func (r *Runner) reconcileService(name model.ServiceName, reps []*replica, addressed func(record) bool) bool {
	slices.SortFunc(reps, func(a, b *replica) int { return rollout.CompareIDs(a.rec.ID, b.rec.ID) })
	w, wanted := r.wanted[name]
	var have []rollout.Candidate
	for _, rep := range reps {
		if stopped(rep) {
			continue
		}
		c := rollout.Candidate{ID: rep.id, Ready: rep.phase == activator.Ready, Since: rep.rec.Since}
		c.Current = wanted && rep.rec.Hash == w.hash && addressed(rep.rec)
		have = append(have, c)
		if c.Current {
			rep.learn(w.spec)
		}
	}
	n := 0
	if wanted {
		n = max(0, w.spec.Replicas)
	}
	start, stop := rollout.Plan(n, have)
	for _, id := range stop {
		current := slices.ContainsFunc(have, func(c rollout.Candidate) bool { return c.ID == id && c.Current })
		r.retireLocked(r.replicas[id], rollout.Why(wanted, current))
	}
	for range start {
		rep := r.newReplica(record{
			Version: recordVersion, ID: rollout.FreeID(name, func(id string) bool { return r.replicas[id] != nil }), Service: name, Hash: w.hash, Cgroup: r.cfg.Cgroup, Ports: listen.PortsOf(w.spec.Ports),
			Head:    w.spec.Workload.Ready == "http-head",
			AnyPort: w.spec.AnyPort,
		})
		r.enter(rep, activator.Starting, "being set up")
		rep.learn(w.spec)
		r.replicas[rep.id] = rep
	}
	return start > 0 || len(stop) > 0
}

// in tells whether the replica's addresses are of the prefixes. It is while it
// has none, and as long as nothing is known of the network.
func (rec record) in(v4, v6 netip.Prefix) bool {
	if len(rec.hops()) == 0 || !v4.IsValid() && !v6.IsValid() {
		return true
	}
	return rec.Addr4.IsValid() == v4.IsValid() && rec.Addr6.IsValid() == v6.IsValid() &&
		(!v4.IsValid() || v4.Contains(rec.Addr4)) && (!v6.IsValid() || v6.Contains(rec.Addr6))
}

// learn takes what may change while the process runs.
func (rep *replica) learn(s activator.Spec) {
	rep.rec.Drain, rep.rec.Timeout = s.Drain, s.Workload.Scale.StartTimeout
	if rep.spec == nil {
		rep.spec = &s
		close(rep.known)
	}
}

// rotateLogs looks at the logs of all replicas, and tells how many there are.
func (r *Runner) rotateLogs() int {
	r.mu.Lock()
	var logs []string
	for _, rep := range r.replicas {
		logs = append(logs, rep.log)
	}
	r.mu.Unlock()
	for _, path := range logs {
		if err := rotateLog(path, r.cfg.LogSize); err != nil && !errors.Is(err, os.ErrNotExist) {
			r.cfg.Log.Warn("rotate log", "error", err)
		}
	}
	return len(logs)
}

// runDirs are the directories below the run directory.
func runDirs(runDir string) []string {
	return []string{filepath.Join(runDir, "replicas"), filepath.Join(runDir, "netns"), filepath.Join(runDir, "work")}
}
