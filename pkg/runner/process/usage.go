// SPDX-License-Identifier: Apache-2.0

package process

import (
	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
)

// Connections counts those open to the replicas of a service, handshakes under
// way and half-closed ones included, those of the replica with itself not. It
// implements activator.Meter.
func (r *Runner) Connections(name model.ServiceName) (int, error) {
	return r.sum(name, listen.Replica.Connections)
}

// AtMost counts all TCP sockets of a service's replicas. It implements
// activator.Estimator.
func (r *Runner) AtMost(name model.ServiceName) (int, error) {
	return r.sum(name, listen.Replica.Sockets)
}

// sum adds up what is counted of each replica that serves.
func (r *Runner) sum(name model.ServiceName, count func(listen.Replica) (int, error)) (total int, err error) {
	r.mu.Lock()
	var recs []record
	for _, rep := range r.replicas {
		if rep.rec.Service == name && rep.proc != nil && rep.phase != activator.Stopping {
			recs = append(recs, rep.rec)
		}
	}
	r.mu.Unlock()
	for _, rec := range recs {
		n, err := count(rec.sockets())
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// Scale sets how many replicas of one service run; false: no Apply has named
// it. It implements activator.Scaler.
func (r *Runner) Scale(name model.ServiceName, replicas int, idle bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.wanted[name]
	if !ok {
		return false
	}
	w.spec.Replicas, w.spec.Idle = replicas, idle
	r.wanted[name] = w
	r.poke()
	return true
}
