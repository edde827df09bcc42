// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// copySize is how much is read at once. A read that fills it is bulk.
	copySize = 16 << 10
	// bulkAfter is how many full reads in a row make a direction bulk.
	bulkAfter = 2
	// turn is how many bytes a direction may move before others get theirs.
	turn = 256 << 10
)

// half is one direction of a flow.
type half struct {
	moved   atomic.Int64
	pending []byte // was read, could not be written yet
	pipe    *pipe  // holds bytes that were spliced out of the source; nil: none

	full     uint8 // reads in a row that filled the buffer
	bulk     bool  // by splice
	readable bool  // the source may have something
	writable bool  // the destination may have room
	hangup   bool  // the source's end or error has been announced: read on until it comes
	eof      bool  // the source's end was read
	shut     bool  // and passed on; or the destination takes nothing more
	queued   bool  // in worker.more
	waits    bool  // in worker.sends
}

// event takes note of what epoll says of one side, and moves what can be.
func (f *Flow) event(side int, events uint32) {
	if f.opening != nil {
		f.connecting(side, events)
		return
	}
	f.seen = f.worker.Load().load.number
	in, out := &f.half[side], &f.half[1-side]
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		in.readable = true
		if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			in.hangup = true
		}
	}
	if events&unix.EPOLLOUT != 0 && !out.writable {
		out.writable = true
		f.move(1 - side)
	}
	if in.readable {
		f.move(side)
	}
}

// resume goes on where a turn was over.
func (f *Flow) resume() {
	f.seen = f.worker.Load().load.number
	for side := range f.half {
		if f.half[side].queued {
			f.half[side].queued = false
			f.move(side)
		}
	}
}

// move carries bytes of one direction until nothing is left, nothing more can
// be written, or the turn is over.
func (f *Flow) move(side int) {
	h := &f.half[side]
	if f.ended || h.shut {
		return
	}
	w := f.worker.Load()
	for left := turn; ; {
		// Before more of the same direction, and before bulk, which takes long.
		if h.waits || h.bulk || h.pipe != nil || w.sends.full() {
			if w.flush(); f.ended || h.shut {
				return
			}
		}
		var n int
		var err error
		if h.bulk || h.pipe != nil {
			n, err = f.splice(side)
		} else {
			n, err = f.copy(side)
		}
		switch {
		case err != nil:
			f.broken(side, err)
			return
		case h.eof && h.empty():
			f.shutdown(side)
			return
		case n == 0 || !h.readable && h.empty():
			return
		}
		if left -= n; left <= 0 {
			if !h.queued {
				h.queued = true
				w.more = append(w.more, f)
			}
			return
		}
	}
}

// empty tells that nothing was read that is still to be written.
func (h *half) empty() bool { return len(h.pending) == 0 && h.pipe == nil }

// writeError is one of the destination.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// copy moves one buffer; 0: nothing can be moved now.
func (f *Flow) copy(side int) (int, error) {
	h, dst := &f.half[side], int(f.fd[1-side])
	if len(h.pending) > 0 {
		return h.flush(dst)
	}
	if !h.readable || h.eof {
		return 0, nil
	}
	s := &f.worker.Load().sends
	buf := s.room()
	n, err := recv(int(f.fd[side]), buf)
	switch {
	case errors.Is(err, unix.EAGAIN):
		h.readable = false
		return 0, nil
	case err != nil:
		return 0, err
	case n == 0:
		h.eof = true
		return 0, nil
	case n == len(buf):
		if h.full++; h.full >= bulkAfter {
			h.full, h.bulk = 0, true
		}
	default:
		h.full = 0
		// Less than was asked for: the queue is empty. What comes after this
		// read is a new edge. An end announced before it is not.
		if h.readable = h.hangup; !h.readable && h.writable {
			s.put(f, side, n)
			return n, nil
		}
	}
	m := 0
	if h.writable {
		if m, err = send(dst, buf[:n]); err != nil && !errors.Is(err, unix.EAGAIN) {
			return 0, writeError{err}
		}
	}
	h.sent(m, buf[:n])
	return n, nil
}

// sent takes note of how much of p was sent; the rest is pending.
func (h *half) sent(n int, p []byte) {
	h.moved.Add(int64(n))
	if n < len(p) {
		h.writable = false
		h.pending = append([]byte(nil), p[n:]...)
	}
}

// flush writes what is pending.
func (h *half) flush(dst int) (int, error) {
	if !h.writable {
		return 0, nil
	}
	n, err := send(dst, h.pending)
	if errors.Is(err, unix.EAGAIN) {
		h.writable = false
		return 0, nil
	}
	if err != nil {
		return 0, writeError{err}
	}
	h.moved.Add(int64(n))
	if h.pending = h.pending[n:]; len(h.pending) > 0 {
		h.writable = false
		return 0, nil
	}
	h.pending = nil
	return n, nil
}

// shutdown passes the end of a direction on.
func (f *Flow) shutdown(side int) {
	h := &f.half[side]
	h.shut = true
	if f.half[1-side].shut {
		f.end(false) // a close says the same
		return
	}
	_ = unix.Shutdown(int(f.fd[1-side]), unix.SHUT_WR) // refused by a socket that is reset: the other direction will see it
}

// broken ends a flow after an error of one direction. When the destination
// does not take the bytes, what it has said before is still passed on: a
// server's last words come before the reset for what it did not read.
func (f *Flow) broken(side int, err error) {
	f.fail(err)
	back := &f.half[1-side]
	var write writeError
	if errors.As(err, &write) && !back.shut {
		h := &f.half[side]
		h.shut = true
		h.drop(f.worker.Load())
		back.readable, back.hangup = true, true
		f.move(1 - side)
		if !f.ended && back.empty() {
			f.end(true)
		}
		return
	}
	f.end(true)
}

// abort ends a flow by resets, whatever it is doing.
func (f *Flow) abort(why error) {
	if f.opening != nil {
		f.unopened(why)
		return
	}
	f.fail(why)
	f.end(true)
}

// fail notes why; the first reason counts.
func (f *Flow) fail(err error) {
	if f.err == nil && !f.ended {
		f.err = err
	}
}

// end closes both sides. With reset the peers get a RST, so that nobody takes
// a cut stream for a whole one; but a side that has still not been sent all is
// closed in order after it.
func (f *Flow) end(reset bool) {
	if f.ended {
		return
	}
	f.ended = true
	w := f.worker.Load()
	if f.half[0].waits || f.half[1].waits {
		w.flush()
	}
	for side := range f.fd {
		fd := int(f.fd[side])
		if reset {
			if unsent, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); err != nil || unsent == 0 || errors.Is(f.err, ErrCut) {
				_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			}
		}
		_ = unix.Close(fd)
		f.half[side].drop(w)
	}
	w.flows[f.slot] = nil
	w.freed = append(w.freed, f.slot)
	f.done(Moved{Sent: f.half[0].moved.Load(), Received: f.half[1].moved.Load(), Err: f.err})
	f.done = nil
}

// drop gives up what was not written.
func (h *half) drop(w *worker) {
	h.pending = nil
	if h.pipe != nil {
		h.pipe.close()
		h.pipe = nil
		w.pipes--
	}
}
