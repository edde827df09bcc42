// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"time"
)

// hear has replicas looked at as soon as one of them listens, until the
// returned function is called. Where that cannot be had they are looked at
// again and again while they start.
func (r *Runner) hear() (stop func()) {
	if r.cfg.Listens == nil {
		return func() {}
	}
	dir := cgroupsIn(r.cfg.Cgroup, r.cfg.RunDir)
	err := os.MkdirAll(dir, 0o755) // before the first replica, so that none is missed
	if err == nil {
		r.mu.Lock()
		r.heard = make(chan struct{})
		r.mu.Unlock()
		c, listenErr := r.cfg.Listens(dir, r.listened)
		if listenErr == nil {
			return func() { _ = c.Close() }
		}
		err = listenErr
	}
	r.mu.Lock()
	r.heard = nil
	r.mu.Unlock()
	r.cfg.Log.Warn("replicas that start are polled", "error", err)
	return func() {}
}

// listened has every replica that starts looked at: which one it was nobody
// says, and a look costs little.
func (r *Runner) listened() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.heard)
	r.heard = make(chan struct{})
}

// listens is closed at the next listen; nil: nobody tells.
func (r *Runner) listens() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard
}

// probeSlow is the time between two looks where events say when to: for what
// no event tells, such as UDP sockets, and the words of the reason.
const probeSlow = 250 * time.Millisecond
