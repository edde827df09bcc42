// SPDX-License-Identifier: Apache-2.0

package process

import (
	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Connections counts those open to the replicas of a service, handshakes under
// way and half-closed ones included, those of the replica with itself not. It
// implements activator.Meter.
func (r *Runner) Connections(name model.ServiceName) (int, error) {
	r.mu.Lock()
	var recs []record
	for _, rep := range r.replicas {
		if rep.rec.Service == name && rep.proc != nil && rep.phase != activator.Stopping {
			recs = append(recs, rep.rec)
		}
	}
	r.mu.Unlock()
	n := 0
	for _, rec := range recs {
		open, err := rec.sockets().Connections()
		if err != nil {
			return 0, err
		}
		n += open
	}
	return n, nil
}

// Scale sets how many replicas of one service run; false: no Apply has named
// it. It implements activator.Scaler.
func (r *Runner) Scale(name model.ServiceName, replicas int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.wanted[name]
	if !ok {
		return false
	}
	w.spec.Replicas = replicas
	r.wanted[name] = w
	r.poke()
	return true
}
