// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// sends is what a worker has read and not sent yet. Small messages wait for
// the other events that were taken together, and then go by one system call.
// Each send wakes somebody, and a call that ends is where the kernel lets that
// one run in the worker's place: sent one by one, a batch falls to pieces, and
// everybody wakes up for a few messages at a time.
type sends struct {
	ring  *ring  // nil: there is none to be had, they go one by one
	buf   []byte // what waits, and room for one more read
	used  int
	queue []waiting
}

// waiting is a message in sends.buf.
type waiting struct {
	flow   *Flow
	from   int // side
	at, to int
	sent   int
	err    error
}

func (m *waiting) socket() int { return int(m.flow.fd[1-m.from]) }

const (
	// sendsSize bounds what waits.
	sendsSize = 64 << 10
	// cacheLine is what messages in sends.buf begin with.
	cacheLine = 64
)

func newSends(plain bool) sends {
	s := sends{buf: make([]byte, sendsSize+copySize), queue: make([]waiting, 0, ringSize)}
	if !plain {
		s.ring, _ = newRing() // what it would bring is CPU time, and nobody can be asked for it
	}
	return s
}

func (s *sends) close() {
	if s.ring != nil {
		s.ring.close()
		s.ring = nil
	}
}

// room is where the next read goes.
func (s *sends) room() []byte { return s.buf[s.used : s.used+copySize] }

// full tells that there is no room, until a flush.
func (s *sends) full() bool { return s.used > sendsSize || len(s.queue) == ringSize }

// put has the first n bytes of room wait.
func (s *sends) put(f *Flow, side, n int) {
	s.queue = append(s.queue, waiting{flow: f, from: side, at: s.used, to: s.used + n})
	s.used += (n + cacheLine - 1) &^ (cacheLine - 1)
	f.half[side].waits = true
}

// carry sends what waits, and notes what became of it.
func (s *sends) carry() {
	begin := 0
	if s.ring != nil && len(s.queue) > 1 {
		for i := range s.queue {
			m := &s.queue[i]
			s.ring.send(m.socket(), s.buf[m.at:m.to])
		}
		results, err := s.ring.submit()
		for i, r := range results {
			if m := &s.queue[i]; r >= 0 {
				m.sent = int(r)
			} else {
				m.err = errno(syscall.Errno(-r))
			}
		}
		if begin = len(results); err != nil {
			s.close()
		}
	}
	for i := begin; i < len(s.queue); i++ {
		m := &s.queue[i]
		m.sent, m.err = send(m.socket(), s.buf[m.at:m.to])
	}
}

// flush sends all that waits. Flows may end by it.
func (w *worker) flush() {
	s := &w.sends
	if len(s.queue) == 0 {
		return
	}
	s.carry()
	var failed []waiting
	for _, m := range s.queue {
		h := &m.flow.half[m.from]
		h.waits = false
		if m.err != nil && !errors.Is(m.err, unix.EAGAIN) {
			failed = append(failed, m)
			continue
		}
		h.sent(m.sent, s.buf[m.at:m.to])
	}
	clear(s.queue)
	s.queue, s.used = s.queue[:0], 0
	for _, m := range failed {
		if !m.flow.ended {
			m.flow.broken(m.from, writeError{m.err})
		}
	}
}
