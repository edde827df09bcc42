// SPDX-License-Identifier: Apache-2.0

package process

import (
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Other states of net/tcp_states.h in which somebody waits for the replica.
const (
	tcpSynRecv    = 3
	tcpCloseWait  = 8
	tcpNewSynRecv = 12
)

// open tells whether somebody may wait for something on the socket.
func (s socket) open() bool {
	switch s.state {
	case tcpEstablished, tcpSynRecv, tcpCloseWait, tcpNewSynRecv:
		return true
	}
	return false
}

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
		tcp, _ := split(rec.Ports)
		all, err := sockets(rec.PID, "tcp")
		if err != nil {
			return 0, err
		}
		for _, s := range all {
			if s.open() && slices.Contains(tcp, s.local.Port()) && !s.local.Addr().IsLoopback() {
				n++
			}
		}
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
