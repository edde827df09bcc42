// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// batch is a worker that does only what it is told, with flows of each of
// which a message waits to be sent.
type batch struct {
	w      *worker
	flow   [8]*Flow
	client [8]*net.TCPConn
	server [8]*net.TCPConn
	moved  [8]chan Moved
}

// batches runs a test with io_uring and without.
func batches(t *testing.T, prepare func(b *batch), test func(t *testing.T, b *batch)) {
	for name, plain := range map[string]bool{"ring": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			if !plain {
				ringHere(t)
			}
			w, err := newWorker(&Pump{cfg: PumpConfig{plain: plain, window: time.Hour}})
			must(t, err)
			b := &batch{w: w}
			t.Cleanup(func() { w.stop(ErrCut) })
			for i := range b.flow {
				client, a := pair(t)
				server, c := pair(t)
				fdA, err := detach(a)
				must(t, err)
				fdC, err := detach(c)
				must(t, err)
				b.moved[i] = make(chan Moved, 1)
				f := &Flow{done: func(m Moved) { b.moved[i] <- m }, fd: [2]int32{int32(fdA), int32(fdC)}}
				f.worker.Store(w)
				w.add(f)
				f.event(0, unix.EPOLLOUT)
				f.event(1, unix.EPOLLOUT)
				b.flow[i], b.client[i], b.server[i] = f, client, server
			}
			if prepare != nil {
				prepare(b)
			}
			for i := range b.flow {
				b.says(t, i, "hello ")
			}
			if len(w.sends.queue) != len(b.flow) || !b.flow[0].half[0].waits {
				t.Fatalf("%d messages wait, want %d", len(w.sends.queue), len(b.flow))
			}
			test(t, b)
		})
	}
}

// says has a client write, and the worker see it.
func (b *batch) says(t *testing.T, i int, text string) {
	t.Helper()
	_, err := b.client[i].Write([]byte(text))
	must(t, err)
	b.until(t, func() bool {
		n, err := unix.IoctlGetInt(int(b.flow[i].fd[0]), unix.SIOCINQ)
		return err == nil && n == len(text)
	})
	b.flow[i].event(0, unix.EPOLLIN)
}

func (b *batch) until(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within", patience)
		}
	}
}

// heard is what a server gets up to the end of its connection.
func (b *batch) heard(t *testing.T, i int) string {
	t.Helper()
	text, err := io.ReadAll(b.server[i])
	must(t, err)
	return string(text)
}

func TestSendsGoTogether(t *testing.T) {
	batches(t, nil, func(t *testing.T, b *batch) {
		b.w.flush()
		for i, f := range b.flow {
			if sent, _ := f.Moved(); sent != 6 || f.half[0].waits || len(b.w.sends.queue) > 0 {
				t.Errorf("flow %d: %d bytes, %d wait", i, sent, len(b.w.sends.queue))
			}
			f.end(false)
			if s := b.heard(t, i); s != "hello " {
				t.Errorf("%q", s)
			}
		}
	})
}

// Of one direction one message waits: what comes next may not overtake what did
// not fit of it.
func TestSendsOfADirection(t *testing.T) {
	batches(t, nil, func(t *testing.T, b *batch) {
		b.says(t, 0, "world")
		if len(b.w.sends.queue) != 1 {
			t.Errorf("%d messages wait, want 1", len(b.w.sends.queue))
		}
		b.flow[0].end(false)
		if s := b.heard(t, 0); s != "hello world" {
			t.Errorf("%q", s)
		}
	})
}

// A flow that ends sends first what waits.
func TestSendsBeforeTheEnd(t *testing.T) {
	batches(t, nil, func(t *testing.T, b *batch) {
		b.flow[0].end(false)
		if m := <-b.moved[0]; m.Sent != 6 {
			t.Errorf("%+v", m)
		}
		if s := b.heard(t, 0); s != "hello " {
			t.Errorf("%q", s)
		}
	})
}

// What does not fit stays, and goes in order when there is room.
func TestSendsWithoutRoom(t *testing.T) {
	filled := 0
	batches(t, func(b *batch) {
		filled = 0
		for _, size := range []int{1 << 16, 1} { // to the last byte
			n, err := 0, error(nil)
			for ; err == nil; n, err = send(int(b.flow[1].fd[1]), make([]byte, size)) {
				filled += n
			}
		}
	}, func(t *testing.T, b *batch) {
		b.w.flush()
		h := &b.flow[1].half[0]
		if string(h.pending) != "hello " || h.writable || h.moved.Load() != 0 {
			t.Fatalf("pending %q, writable %v, moved %d", h.pending, h.writable, h.moved.Load())
		}
		if _, err := io.CopyN(io.Discard, b.server[1], int64(filled)); err != nil {
			t.Fatal(err)
		}
		b.until(t, func() bool {
			b.flow[1].event(1, unix.EPOLLOUT)
			return h.pending == nil
		})
		b.flow[1].end(false)
		if s := b.heard(t, 1); s != "hello " {
			t.Errorf("%q", s)
		}
	})
}

// A destination that takes nothing ends its flow, not the other.
func TestSendsToNobody(t *testing.T) {
	batches(t, func(b *batch) {
		_ = b.server[0].SetLinger(0)
		_ = b.server[0].Close()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if e, err := unix.GetsockoptInt(int(b.flow[0].fd[1]), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || e != 0 {
				return
			}
		}
	}, func(t *testing.T, b *batch) {
		b.w.flush()
		if m := wait(t, b.moved[0]); !errors.Is(m.Err, syscall.EPIPE) || m.Sent != 0 {
			t.Errorf("%+v", m)
		}
		b.flow[1].end(false)
		if s := b.heard(t, 1); s != "hello " {
			t.Errorf("%q", s)
		}
	})
}

// More than the buffer has room for goes in parts.
func TestSendsWithinBounds(t *testing.T) {
	batches(t, nil, func(t *testing.T, b *batch) {
		b.w.flush()
		text := strings.Repeat("x", copySize-1)
		for round := range 2 {
			for i := range b.flow {
				b.says(t, i, text)
				if s := &b.w.sends; s.used > sendsSize+copySize {
					t.Fatalf("round %d, flow %d: %d bytes wait", round, i, s.used)
				}
			}
		}
		b.flow[0].end(false)
		if s := b.heard(t, 0); len(s) != 6+2*(copySize-1) {
			t.Errorf("%d bytes", len(s))
		}
	})
}
