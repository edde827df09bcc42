// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Flows are on as few workers as can serve them: the more messages a worker
// finds at a time, the less each of them costs. So a flow begins on the first
// worker that has time to spare, and one that has none gives flows away. A CPU
// that others want too makes a worker look loaded as well, which is right: two
// get more of it.

const (
	// window is over how long a worker's load is taken.
	window = 100 * time.Millisecond
	// spare is the part of a window that a worker waits at least unless it is
	// loaded.
	spare = 0.1
	// bulkMost is how many bytes a worker splices in a window at most unless it is
	// loaded: bulk is no cheaper where there is more of it, and messages wait for
	// it. A window ends when there were as many.
	bulkMost = 24 << 20
	// blocked is what a call that did wait takes at least.
	blocked = 10 * time.Microsecond
	// shedMost bounds the flows that are given away after one window.
	shedMost = 256
)

// load is a worker's account of its time, by the monotonic clock.
type load struct {
	epoch  time.Time
	now    time.Duration // since epoch; when the last wait ended
	turned time.Duration // when others last had their turn
	begun  time.Duration // the window
	waited time.Duration // in it
	bulk   int64         // bytes spliced in it
	number uint32        // of the window
}

// wait takes note of a call that may have waited.
func (l *load) wait(before time.Duration) {
	l.now = time.Since(l.epoch)
	if took := l.now - before; took > blocked {
		l.waited += took
	}
}

// worker is the one that a new flow begins on.
func (p *Pump) worker() *worker {
	if w := p.idler(nil); w != nil {
		return w
	}
	return p.workers[int(p.next.Add(1))%len(p.workers)]
}

// idler is the first worker with time to spare that is not w; nil: there is
// none.
func (p *Pump) idler(w *worker) *worker {
	for _, x := range p.workers {
		if x != w && !x.loaded.Load() {
			return x
		}
	}
	return nil
}

// look ends a window that is over.
func (w *worker) look() {
	l := &w.load
	took := l.now - l.begun
	if took < w.pump.cfg.window && l.bulk < bulkMost {
		return
	}
	loaded := float64(l.waited) < w.pump.cfg.spare*float64(took) || l.bulk >= bulkMost
	w.loaded.Store(loaded)
	if loaded {
		w.shed()
	}
	l.begin()
}

// begin begins a window.
func (l *load) begin() {
	l.begun, l.waited, l.bulk = l.now, 0, 0
	l.number++
}

// shed gives away half of the flows that had something to do in this window. It is
// called between batches.
func (w *worker) shed() {
	to := w.pump.idler(w)
	if to == nil {
		return
	}
	given, odd := 0, false
	for _, f := range w.flows {
		if f == nil || f.opening != nil || f.seen != w.load.number {
			continue
		}
		if odd = !odd; odd {
			continue
		}
		if !w.give(f, to) {
			return
		}
		to.loaded.Store(true) // until a window with what it is given has ended
		if given++; given == shedMost {
			return
		}
	}
}

// give hands a flow to another worker, where it begins as a new one does: the
// first events tell again what can be read and written. false: that one has
// stopped.
func (w *worker) give(f *Flow, to *worker) bool {
	for _, fd := range f.fd {
		_ = unix.EpollCtl(w.ep, unix.EPOLL_CTL_DEL, int(fd), nil)
	}
	for side := range f.half {
		h := &f.half[side]
		if h.pipe != nil {
			w.pipes--
		}
		if h.queued {
			h.queued = false
			w.more = slices.DeleteFunc(w.more, func(x *Flow) bool { return x == f })
		}
	}
	w.flows[f.slot] = nil
	w.freed = append(w.freed, f.slot)
	if to.take(f, true) {
		return true
	}
	w.add(f)
	return false
}
