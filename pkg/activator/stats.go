// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Phases of a wake that came to a good end.
const (
	phaseStart  = "start"      // from the first who asked until a process ran
	phaseListen = "listen"     // until a replica was ready
	phaseByte   = "first_byte" // until the first who waited was joined with it
)

// phaseOf is a cell of the times of wakes.
type phaseOf struct {
	service model.ServiceName
	phase   string
}

// Duration is how long one phase of the wakes of a service took.
type Duration struct {
	Service model.ServiceName
	Phase   string // "start" | "listen" | "first_byte"
	Count   uint64
	Seconds float64 // together
}

// WakeCount is one cell of the count of starts.
type WakeCount struct {
	Service model.ServiceName
	Cause   string // "connection" | "request" | "operator"
	// Result is "ready" | "failed" | "timeout" of starts; "queue_full" and
	// "refused" (right after one that failed) of those who could not wait.
	Result string
	Count  uint64
}

// Wakes counts starts, and the times of those that came to a good end, of the
// services there are.
func (a *Activator) Wakes() (counts []WakeCount, times []Duration) {
	s := &a.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	for o, n := range s.stats {
		counts = append(counts, WakeCount{o.service, o.cause, o.result, n})
	}
	for _, d := range s.took {
		times = append(times, *d)
	}
	return counts, times
}

// timed counts a wake that came to a good end just now. A process that ran
// before somebody asked, or whose start is not known, counts for nothing.
func (s *sleepers) timed(x *sleeper, started, now time.Time) {
	if started.Before(x.since) {
		started = x.since
	}
	s.add(x.name, phaseStart, started.Sub(x.since))
	s.add(x.name, phaseListen, now.Sub(started))
	x.readyAt = now
}

func (s *sleepers) add(name model.ServiceName, phase string, took time.Duration) {
	key := phaseOf{name, phase}
	d := s.took[key]
	if d == nil {
		d = &Duration{Service: name, Phase: phase}
		s.took[key] = d
	}
	d.Count++
	d.Seconds += max(took, 0).Seconds()
}

// Joined is told when a connection or request that was held has reached a
// replica: the first one after a wake counts.
func (a *Activator) Joined(name model.ServiceName) {
	s := &a.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.by[name]; x != nil && !x.readyAt.IsZero() {
		s.add(name, phaseByte, a.cfg.Now().Sub(x.readyAt))
		x.readyAt = time.Time{}
	}
}

// startedOf is when the process of a service's ready replica began.
func startedOf(replicas []Replica, name model.ServiceName) (at time.Time) {
	for _, r := range replicas {
		if r.Service == name && r.Phase == Ready && (at.IsZero() || r.Started.Before(at)) {
			at = r.Started
		}
	}
	return at
}

// forget drops what was counted of a service that is gone.
func (s *sleepers) forget(name model.ServiceName) {
	for o := range s.stats {
		if o.service == name {
			delete(s.stats, o)
		}
	}
	for p := range s.took {
		if p.service == name {
			delete(s.took, p)
		}
	}
}
