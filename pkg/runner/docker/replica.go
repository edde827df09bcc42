// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/dockerd"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// replica is one replica and what its keeper, the goroutine that alone drives
// it, knows. The lock of the Runner guards it.
type replica struct {
	id      string
	service model.ServiceName
	hash    string
	ports   []listen.Port
	any     bool // nobody wrote the only port
	drain   time.Duration
	timeout time.Duration

	want     *want // nil: adopted, and not yet known whether it is wanted
	phase    activator.Phase
	reason   string
	since    time.Time
	next     time.Time
	delay    time.Duration // wait before the next restart
	restarts int
	hopeless bool          // there is no image to start
	box      box           // what runs; only the keeper and an adoption change it
	stop     chan struct{} // closed: it is to go
	known    chan struct{} // closed: want is set
	touched  chan struct{} // something happened to its container
	running  bool          // its keeper runs
}

// box is a container that runs, as it was last seen.
type box struct {
	id           string // empty: there is none
	pid          int    // 0: the process cannot be seen from here
	addr4, addr6 netip.Addr
	started      time.Time
	port         uint16 // that it listens on in place of the only one of ports; 0: none
	ready        bool   // it was
	late6        bool   // it serves, but does not answer at addr6 yet
}

func newReplica(id string, service model.ServiceName, hash string) *replica {
	return &replica{
		id: id, service: service, hash: hash,
		stop: make(chan struct{}), known: make(chan struct{}), touched: make(chan struct{}, 1),
	}
}

func (r *Runner) public(rep *replica) activator.Replica {
	out := activator.Replica{
		ID: rep.id, Service: rep.service, Driver: "docker", Phase: rep.phase, Reason: rep.reason,
		Addr4: rep.box.addr4, Addr6: rep.box.addr6, Port: rep.box.port, PID: rep.box.pid, Since: rep.since, Next: rep.next, Restarts: rep.restarts,
		Log: "docker logs " + nameOf(r.owner, rep.id), Hopeless: rep.hopeless, Started: rep.box.started,
	}
	if rep.box.late6 {
		out.Addr6 = netip.Addr{}
	}
	if r.away != "" {
		out.Reason = r.away
	}
	return out
}

// sockets is the replica as package listen looks at it. The caller holds the
// lock.
func (rep *replica) sockets() listen.Replica {
	out := listen.Replica{PID: rep.box.pid, Ports: rep.ports, Any: rep.any}
	if rep.box.port != 0 {
		out.Ports = []listen.Port{{Number: rep.box.port}}
	}
	for _, a := range []netip.Addr{rep.box.addr4, rep.box.addr6} {
		if a.IsValid() {
			out.Addrs = append(out.Addrs, a)
		}
	}
	return out
}

// touch has the keeper look at the container. It never blocks.
func (rep *replica) touch() {
	select {
	case rep.touched <- struct{}{}:
	default:
	}
}

// enter changes the phase. The caller holds the lock.
func (r *Runner) enter(rep *replica, phase activator.Phase, reason string) {
	if rep.phase != phase {
		rep.since = r.cfg.Now()
	}
	rep.phase, rep.reason, rep.next, rep.hopeless = phase, reason, time.Time{}, false
}

// look copies what the keeper shares with others.
func (r *Runner) look(rep *replica) (box, listen.Replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rep.box, rep.sockets()
}

func stopped(rep *replica) bool {
	select {
	case <-rep.stop:
		return true
	default:
		return false
	}
}

// keep drives one replica until it is removed or ctx ends; then its container
// goes on without a keeper.
func (r *Runner) keep(ctx context.Context, rep *replica) {
	for ctx.Err() == nil {
		if stopped(rep) {
			r.retire(ctx, rep)
			return
		}
		if b, _ := r.look(rep); b.id == "" {
			if !r.awaitStart(ctx, rep) {
				continue
			}
			if err := r.start(ctx, rep); err != nil {
				r.startFailed(ctx, rep, err)
				continue
			}
		}
		if how, ended := r.watch(ctx, rep); ended {
			r.fall(rep, how, false)
		}
	}
}

// startFailed has the replica wait. A daemon that is away is no fault of the
// replica's.
func (r *Runner) startFailed(ctx context.Context, rep *replica, err error) {
	switch {
	case ctx.Err() != nil || stopped(rep):
	case dockerd.Away(err):
		r.tell(rep, r.daemon.Explain(err))
		pause(ctx, 200*time.Millisecond) // until it is known to be away
	default:
		r.fall(rep, r.daemon.Explain(err), errors.Is(err, errNoImage))
	}
}

// awaitStart waits until the replica may be started; false: it may not, or has
// been found running.
func (r *Runner) awaitStart(ctx context.Context, rep *replica) bool {
	select {
	case <-ctx.Done():
		return false
	case <-rep.stop:
		return false
	case <-rep.known:
	}
	r.mu.Lock()
	up, wait := r.up, rep.next.Sub(r.cfg.Now())
	r.mu.Unlock()
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	waited := timer.C
	for up != nil || waited != nil {
		select {
		case <-ctx.Done():
			return false
		case <-rep.stop:
			return false
		case <-up:
			up = nil
		case <-waited:
			waited = nil
		}
	}
	b, _ := r.look(rep)
	return b.id == ""
}

// watch waits until the container has ended (and says how), the replica is to
// go, or ctx ends; meanwhile it finds out when the replica is ready.
func (r *Runner) watch(ctx context.Context, rep *replica) (how string, ended bool) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	r.mu.Lock()
	starting := rep.phase == activator.Starting
	r.mu.Unlock()
	if starting {
		wg.Go(func() { r.probe(ctx, rep) })
	}
	for {
		var alone <-chan time.Time // nobody tells of the process's end
		if !r.answers() {
			alone = time.After(lookAlone)
		}
		select {
		case <-ctx.Done():
			return "", false
		case <-rep.stop:
			return "", false
		case <-rep.touched:
			how, ended = r.ended(ctx, rep)
		case <-alone:
			b, _ := r.look(rep)
			how, ended = "it ended while the Docker daemon was away", b.pid != 0 && !visible(b.pid, b.id)
		}
		if ended {
			cancel()
			wg.Wait() // the prober must not call it ready after this
			return how, true
		}
	}
}

// lookAlone is how often a process is looked at while the daemon is away.
const lookAlone = 250 * time.Millisecond

// probe waits until the replica answers, or ctx ends.
func (r *Runner) probe(ctx context.Context, rep *replica) {
	b, sockets := r.look(rep)
	r.mu.Lock()
	timeout := rep.timeout
	head := rep.want != nil && rep.want.spec.Workload.Ready == "http-head"
	r.mu.Unlock()
	cookie := uint64(0)
	if b.pid != 0 {
		var err error
		if cookie, err = listen.Cookie(fmt.Sprintf("/proc/%d/ns/net", b.pid)); err != nil {
			r.cfg.Log.Debug("a container that starts is looked at whenever one listens", "replica", rep.id, "error", err)
		}
	}
	port, ready := r.ear.Await(ctx, listen.Start{
		Replica: sockets, Netns: cookie, Head: head, Since: b.started, Timeout: timeout, Now: r.cfg.Now,
		Ready: func() bool { return r.herald(rep) },
		Tell:  func(why string) { r.tell(rep, why) },
	})
	if !ready {
		return
	}
	if port != 0 {
		sockets.Ports = []listen.Port{{Number: port}}
	}
	late := b.addr4.IsValid() && b.addr6.IsValid() && !sockets.Reaches(ctx, b.addr6, soon)
	r.update(func() {
		rep.box.ready, rep.box.late6, rep.box.port = true, late, port
		if rep.phase == activator.Starting {
			r.enter(rep, activator.Ready, "")
		}
	})
	r.note(rep)
	r.cfg.Log.Info("replica is ready", "replica", rep.id, "after", r.cfg.Now().Sub(b.started).Round(time.Millisecond))
	if late && sockets.Reaches(ctx, b.addr6, lateTime) {
		r.update(func() { rep.box.late6 = false })
	}
}

// herald tells who waits for the replica that it is ready: at its IPv4 address, if
// it has one, as the other may not be answered at yet.
func (r *Runner) herald(rep *replica) (awaited bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rep.phase != activator.Starting || r.heralded == nil {
		return false
	}
	rep.box.late6 = rep.box.addr4.IsValid() && rep.box.addr6.IsValid() // until probe knows better
	return r.heralded(r.public(rep))
}

// A bridge checks for a second or two after its first container has come
// whether its own IPv6 address is another's (RFC 4862), and sends nothing from
// it meanwhile.
const (
	soon     = 20 * time.Millisecond
	lateTime = time.Minute
)

// tell says why a replica that starts is not ready.
func (r *Runner) tell(rep *replica, why string) {
	r.mu.Lock()
	news := rep.phase == activator.Starting && rep.reason != why
	r.mu.Unlock()
	if news {
		r.update(func() {
			if rep.phase == activator.Starting {
				rep.reason = why
			}
		})
	}
}

// fall puts the replica, of which nothing runs, into backoff.
func (r *Runner) fall(rep *replica, reason string, hopeless bool) {
	r.unnote(rep.id)
	r.update(func() {
		now := r.cfg.Now()
		served := time.Duration(-1)
		if rep.box.ready {
			served = now.Sub(rep.box.started)
		}
		rep.delay = r.cfg.Backoff.Next(rep.delay, served)
		rep.box = box{}
		rep.restarts++
		if !stopped(rep) {
			r.enter(rep, activator.Backoff, reason)
			rep.next, rep.hopeless = now.Add(rep.delay), hopeless
		}
	})
	r.cfg.Log.Warn("replica ended", "replica", rep.id, "reason", reason, "again-in", rep.delay)
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
