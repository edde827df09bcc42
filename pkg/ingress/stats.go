// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"slices"
	"sync/atomic"
	"time"
)

// Buckets are the upper bounds of the durations that are counted apart, in
// seconds. What takes longer counts in the sum and the number alone.
var Buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// bounds are the same in nanoseconds.
var bounds = func() (b [15]int64) {
	for i, s := range Buckets {
		b[i] = int64(s * float64(time.Second))
	}
	return b
}()

// stats are the counters of a service. They take memory once there is
// something to count: most of many services are never asked.
type stats struct{ p atomic.Pointer[counters] }

type counters struct {
	codes   [500]atomic.Uint64 // by status less 100
	buckets [15]atomic.Uint64
	slower  atomic.Uint64
	nanos   atomic.Uint64
}

func (s *stats) count(code int, took int64) {
	c := s.p.Load()
	if c == nil {
		s.p.CompareAndSwap(nil, new(counters))
		c = s.p.Load()
	}
	if code >= 100 && code < 600 {
		c.codes[code-100].Add(1)
	}
	c.nanos.Add(uint64(max(took, 0)))
	for i := range bounds {
		if took <= bounds[i] {
			c.buckets[i].Add(1)
			return
		}
	}
	c.slower.Add(1)
}

// Count is what one service has answered since the start.
type Count struct {
	Service string         // PROJECT/USER; "none" for hosts and paths nobody has
	Active  int64          // requests and open WebSockets: it must not sleep (row L07)
	Codes   map[int]uint64 // by status; 499: the client went before the answer
	// Durations are the requests that took up to each of Buckets, not summed
	// up; the last one is of those that took longer.
	Durations []uint64
	Seconds   float64 // in all
}

func (s *stats) read(name string) Count {
	out := Count{Service: name, Codes: map[int]uint64{}}
	c := s.p.Load()
	if c == nil {
		return out
	}
	out.Seconds = float64(c.nanos.Load()) / float64(time.Second)
	for i := range c.codes {
		if n := c.codes[i].Load(); n > 0 {
			out.Codes[i+100] = n
		}
	}
	for i := range c.buckets {
		out.Durations = append(out.Durations, c.buckets[i].Load())
	}
	out.Durations = append(out.Durations, c.slower.Load())
	return out
}

// Counts lists what every service has answered, sorted by name.
func (t *Target) Counts() []Count {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []Count{t.nobody.stats.read(t.nobody.text)}
	for _, s := range t.services {
		c := s.stats.read(s.text)
		c.Active = s.active.Load()
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Count) int {
		if a.Service < b.Service {
			return -1
		}
		return 1
	})
	return out
}
