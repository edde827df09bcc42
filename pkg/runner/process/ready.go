// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// hear has replicas looked at as soon as one of them listens, until the
// returned function is called.
func (r *Runner) hear() (stop func()) {
	stop, err := r.ear.Open(cgroupsIn(r.cfg.Cgroup, r.cfg.RunDir), r.cfg.Listens)
	if err != nil {
		r.cfg.Log.Warn("replicas that start are polled", "error", err)
	}
	return stop
}

// probe waits until the replica answers, or ctx ends. After the start timeout
// it goes on, and the reason says that it is late.
func (r *Runner) probe(ctx context.Context, rep *replica) {
	_, rec := r.look(rep)
	cookie, err := listen.Cookie(rep.paths.netns)
	if err != nil {
		r.cfg.Log.Warn("a replica that starts is looked at whenever one listens", "replica", rep.id, "error", err)
	}
	port, ready := r.ear.Await(ctx, listen.Start{
		Replica: rec.sockets(), Netns: cookie, Head: rec.Head, Since: rec.Since, Timeout: rec.Timeout, Now: r.cfg.Now,
		Ready: func() bool { return r.herald(rep) },
		Tell: func(why string) {
			if r.mayTell(rep, why) {
				r.update(func() {
					if rep.phase == activator.Starting {
						rep.reason = why
					}
				})
			}
		},
	})
	if ready {
		r.becomeReady(rep, port)
	}
}

func (r *Runner) mayTell(rep *replica, why string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rep.phase == activator.Starting && rep.reason != why
}

// herald tells who waits for the replica that it is ready.
func (r *Runner) herald(rep *replica) (awaited bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rep.phase == activator.Starting && r.heralded != nil && r.heralded(rep.public())
}

// becomeReady notes it for the next agent before anybody else is told.
func (r *Runner) becomeReady(rep *replica, port uint16) {
	_, rec := r.look(rep)
	rec.Ready, rec.Port = true, port
	if err := rec.save(rep.paths.record); err != nil {
		r.cfg.Log.Warn("the next agent will probe this replica again", "replica", rep.id, "error", err)
	}
	r.update(func() {
		rep.rec.Ready, rep.rec.Port = true, port
		if rep.phase == activator.Starting {
			r.enter(rep, activator.Ready, "")
		}
	})
	r.cfg.Log.Info("replica is ready", "replica", rep.id, "after", r.cfg.Now().Sub(rec.Since).Round(time.Millisecond))
}

// Listening says in words why nothing answers TCP at an address of a replica:
// what listens there instead. Empty: something answers, the address is no
// running replica's, or there was no time to look. It takes a second at most.
// Safe for concurrent use.
func (r *Runner) Listening(to netip.AddrPort) string {
	id, pid, path := r.at(to.Addr())
	if id == "" {
		return ""
	}
	why, err := r.looks.Instead(id, pid, path, to)
	if err != nil {
		r.cfg.Log.Debug("look what a replica listens on", "replica", id, "error", err)
	}
	return why
}

// at finds the replica that has an address and runs.
func (r *Runner) at(addr netip.Addr) (id string, pid int, netns string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rep := range r.replicas {
		if (rep.rec.Addr4 == addr || rep.rec.Addr6 == addr) && rep.proc != nil {
			return rep.id, rep.proc.pid, rep.paths.netns
		}
	}
	return "", 0, ""
}
