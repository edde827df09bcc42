// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// phase is what a watched connection waits for.
type phase int64

const (
	onClient phase = iota + 1
	onReplica
)

const (
	phaseBits = 2
	expired   = -1
)

// watch is a time limit on what a connection waits for. It is set and taken off
// with an atomic write each, where a deadline of the runtime would be a timer;
// its expiry comes late by up to a tick.
type watch struct {
	at     atomic.Int64 // 0: none; expired; or the end, shifted, with the phase
	expire func(phase)  // called once the limit has passed; must not block
	index  int
}

// clock is the coarse time and all watches.
type clock struct {
	base   time.Time
	tick   time.Duration
	coarse atomic.Int64 // nanoseconds since base, as of the last tick
	shards [8]shard
	turn   atomic.Uint32
}

type shard struct {
	mu  sync.Mutex
	all []*watch
}

func newClock(tick time.Duration) *clock { return &clock{base: time.Now(), tick: tick} }

// now is exact, in nanoseconds.
func (c *clock) now() int64 { return int64(time.Since(c.base)) }

// run lets limits expire until ctx ends. each is called with every tick.
func (c *clock) run(ctx context.Context, each func(now int64)) {
	t := time.NewTicker(c.tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := c.now()
		c.coarse.Store(now)
		for i := range c.shards {
			c.shards[i].sweep(now)
		}
		each(now)
	}
}

func (s *shard) sweep(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.all {
		at := w.at.Load()
		if at > 0 && at>>phaseBits < now && w.at.CompareAndSwap(at, expired) {
			w.expire(phase(at & (1<<phaseBits - 1)))
		}
	}
}

// add has a watch looked at until it is removed. The shard is to be kept.
func (c *clock) add(w *watch) *shard {
	s := &c.shards[c.turn.Add(1)%uint32(len(c.shards))]
	s.mu.Lock()
	w.index = len(s.all)
	s.all = append(s.all, w)
	s.mu.Unlock()
	return s
}

func (s *shard) remove(w *watch) {
	s.mu.Lock()
	last := len(s.all) - 1
	s.all[w.index] = s.all[last]
	s.all[w.index].index = w.index
	s.all[last] = nil
	s.all = s.all[:last]
	s.mu.Unlock()
}

// arm sets a limit from now, in place of the last. It tells whether the last
// one had not expired yet.
func (w *watch) arm(c *clock, p phase, d time.Duration) bool {
	// A tick more, as the coarse time is behind by up to one.
	at := (c.coarse.Load()+int64(d)+int64(c.tick))<<phaseBits | int64(p)
	return w.at.Swap(at) != expired
}

// end has the limit expire now, whatever it is and whether there is one.
func (w *watch) end(p phase) {
	for {
		at := w.at.Load()
		if at == expired {
			return
		}
		if w.at.CompareAndSwap(at, expired) {
			w.expire(p)
			return
		}
	}
}

// disarm takes the limit off and tells whether it had not expired yet.
func (w *watch) disarm() bool { return w.at.Swap(0) != expired }
