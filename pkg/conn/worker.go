// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// worker moves the bytes of its flows. Everything but the inbox belongs to the
// goroutine of run.
type worker struct {
	pump     *Pump
	ep, bell int // epoll; eventfd that says there is something in the inbox

	mu      sync.Mutex
	inbox   []order
	stopped bool

	flows []*Flow // by slot
	free  []int32 // slots
	freed []int32 // of flows that ended in this batch: an event of theirs may still come
	more  []*Flow // with work left that was put off for others
	spare []*Flow
	sends sends
	idle  []*pipe // empty ones
	pipes int     // there are

	load   load
	loaded atomic.Bool // had no time to spare in the last window

	events [256]unix.EpollEvent
}

// order is what others want of a worker.
type order struct {
	kind  orderKind
	given bool // orderStart: by another worker
	flow  *Flow
}

type orderKind uint8

const (
	orderStart orderKind = iota
	orderCut
	orderExpire // what is being opened takes too long
	orderStop
)

// bellSlot marks the eventfd among the events.
const bellSlot = -1

func newWorker(p *Pump) (*worker, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("start pump: epoll: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(ep)
		return nil, fmt.Errorf("start pump: eventfd: %w", err)
	}
	w := &worker{pump: p, ep: ep, bell: bell, sends: newSends(p.cfg.plain), load: load{epoch: time.Now(), number: 1}}
	err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: bellSlot})
	if err != nil {
		w.close()
		return nil, fmt.Errorf("start pump: epoll: %w", err)
	}
	return w, nil
}

func (w *worker) close() {
	_ = unix.Close(w.ep)
	_ = unix.Close(w.bell)
	w.sends.close()
	for _, p := range w.idle {
		p.close()
	}
}

// post gives an order; false: the worker has stopped.
func (w *worker) post(o order) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.put(o)
}

// take gets a flow, new or another worker's: orders to it that are given from
// now on come to this worker, after it.
func (w *worker) take(f *Flow, given bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := f.worker.Swap(w)
	if w.put(order{kind: orderStart, given: given, flow: f}) {
		return true
	}
	f.worker.Store(before)
	return false
}

// put is post with mu held.
func (w *worker) put(o order) bool {
	if w.stopped {
		return false
	}
	if w.inbox = append(w.inbox, o); len(w.inbox) == 1 {
		// Of an eventfd only a full counter refuses, and this is the only one.
		_, _ = unix.Write(w.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	return true
}

// stint is how long a busy worker goes on before other goroutines have a turn
// on its thread. A turn is not free: it wakes a thread to look for them, and
// the worker may go on on another. But after 10 ms without one the Go scheduler
// takes the P away in the next system call, and then looks after it thousands
// of times a second (sysmon and retake in runtime/proc.go).
const stint = 5 * time.Millisecond

// run serves until orderStop.
func (w *worker) run() {
	for {
		if w.load.now-w.load.turned >= stint {
			runtime.Gosched()
			w.load.turned = w.load.now
		}
		n, err := w.wait()
		if err != nil {
			w.stop(fmt.Errorf("wait for events: %w", err))
			return
		}
		ring := false
		for i := range w.events[:n] {
			e := &w.events[i]
			if e.Fd == bellSlot {
				ring = true
				continue
			}
			if f := w.flows[e.Fd>>1]; f != nil {
				f.event(int(e.Fd&1), e.Events)
			}
		}
		w.flush()
		again := w.more
		w.more, w.spare = w.spare[:0], again
		for _, f := range again {
			f.resume()
		}
		w.flush()
		if ring && w.obey() {
			w.stop(ErrCut)
			return
		}
		w.look()
		w.free = append(w.free, w.freed...)
		w.freed = w.freed[:0]
	}
}

// wait returns how many events there are. It does not block while flows have
// work left.
func (w *worker) wait() (n int, err error) {
	if len(w.more) > 0 {
		n, err = epollPoll(w.ep, w.events[:])
		w.load.now = time.Since(w.load.epoch)
	} else {
		before := time.Since(w.load.epoch)
		n, err = unix.EpollWait(w.ep, w.events[:], -1)
		w.load.wait(before)
	}
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return n, err
}

// obey carries out the orders; true: one was to stop.
func (w *worker) obey() (stop bool) {
	var b [8]byte
	_, _ = unix.Read(w.bell, b[:])
	w.mu.Lock()
	orders := w.inbox
	w.inbox = nil
	w.mu.Unlock()
	for _, o := range orders {
		switch o.kind {
		case orderStart:
			if w.add(o.flow); o.given {
				w.load.begin()
			}
		case orderCut:
			if at := o.flow.worker.Load(); at != w {
				at.post(o) // given away meanwhile
				continue
			}
			o.flow.abort(ErrCut)
		case orderExpire:
			if o.flow.opening != nil {
				o.flow.abort(ErrUnanswered)
			}
		case orderStop:
			stop = true
		}
	}
	return stop
}

// add begins a flow. Edge-triggered events for everything are asked for once:
// the first tells what is there already.
func (w *worker) add(f *Flow) {
	slot := int32(len(w.flows))
	if n := len(w.free); n > 0 {
		slot, w.free = w.free[n-1], w.free[:n-1]
		w.flows[slot] = f
	} else {
		w.flows = append(w.flows, f)
	}
	f.slot = slot
	for side := range f.half {
		if f.half[side].pipe != nil {
			w.pipes++ // of a flow that was given away
		}
	}
	for side := range f.fd {
		e := unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | edge,
			Fd:     slot<<1 | int32(side),
		}
		if err := unix.EpollCtl(w.ep, unix.EPOLL_CTL_ADD, int(f.fd[side]), &e); err != nil {
			f.abort(fmt.Errorf("watch connection: %w", err))
			return
		}
	}
}

// edge is EPOLLET, which as a constant of x/sys is negative.
const edge = 1 << 31

// stop ends all flows.
func (w *worker) stop(why error) {
	w.mu.Lock()
	w.stopped = true
	orders := w.inbox
	w.inbox = nil
	w.mu.Unlock()
	for _, o := range orders {
		if o.kind == orderStart {
			w.add(o.flow)
		}
	}
	for _, f := range w.flows {
		if f != nil {
			f.abort(why)
		}
	}
	w.close()
}
