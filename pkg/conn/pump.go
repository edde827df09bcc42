// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Pump moves bytes between pairs of TCP connections. A few workers, each with
// an epoll instance of its own, serve all pairs: a pair that is idle costs no
// goroutine, no stack and no buffer, only its descriptors and a Flow. As few of
// them work as can serve the traffic (load.go).
//
// A direction begins with read and write, which is best for small messages;
// those of many pairs are written together (sends.go).
// One whose reads fill the buffer is bulk and goes on with splice(2), which
// copies nothing, until a read is small again.
//
// The end of one direction is passed on by itself (half-close); a reset ends
// both.
type Pump struct {
	cfg     PumpConfig
	workers []*worker
	next    atomic.Uint32
	wg      sync.WaitGroup
}

// PumpConfig tunes a Pump; the zero value is production.
type PumpConfig struct {
	Workers int // default GOMAXPROCS - 1, and at least 1, so that the rest of the process has its turn

	plain  bool          // without io_uring, as where there is none
	window time.Duration // see window, and for spare
	spare  float64
}

// NewPump starts the workers. Close it.
func NewPump(cfg PumpConfig) (*Pump, error) {
	if cfg.Workers == 0 {
		cfg.Workers = max(runtime.GOMAXPROCS(0)-1, 1)
	}
	if cfg.window == 0 {
		cfg.window, cfg.spare = window, spare
	}
	p := &Pump{cfg: cfg}
	for range cfg.Workers {
		w, err := newWorker(p)
		if err != nil {
			for _, w := range p.workers {
				w.close()
			}
			return nil, err
		}
		p.workers = append(p.workers, w)
	}
	for _, w := range p.workers {
		p.wg.Go(w.run)
	}
	return p, nil
}

// Close cuts every flow, calls their done and waits for the workers.
func (p *Pump) Close() {
	for _, w := range p.workers {
		w.post(order{kind: orderStop})
	}
	p.wg.Wait()
}

// Why a flow ended before both sides had closed it.
var (
	ErrCut        = errors.New("connection was cut")
	errPumpClosed = errors.New("pump is closed")
)

// Moved is what a flow did.
type Moved struct {
	Sent     int64 // bytes from a to b
	Received int64 // bytes from b to a
	Err      error // nil: both sides closed in order
}

// Start joins two connections, which from then on belong to the pump: it
// closes them, and the caller must not touch them again, whatever Start
// returns. done is called once, by a worker: it must not block. It is not
// called when Start returns an error.
func (p *Pump) Start(a, b *net.TCPConn, done func(Moved)) (*Flow, error) {
	fdA, err := detach(a)
	if err != nil {
		_ = b.Close()
		return nil, err
	}
	fdB, err := detach(b)
	if err != nil {
		_ = unix.Close(fdA)
		return nil, err
	}
	f := &Flow{done: done}
	f.fd = [2]int32{int32(fdA), int32(fdB)}
	if !p.worker().take(f, false) {
		_ = unix.Close(fdA)
		_ = unix.Close(fdB)
		return nil, errPumpClosed
	}
	return f, nil
}

// Pipe joins two connections and waits for their end, or cuts them when ctx
// ends. Both are closed. sent is what went from a to b.
func (p *Pump) Pipe(ctx context.Context, a, b *net.TCPConn) (sent, received int64, err error) {
	ended := make(chan Moved, 1)
	f, err := p.Start(a, b, func(m Moved) { ended <- m })
	if err != nil {
		return 0, 0, err
	}
	stop := context.AfterFunc(ctx, f.Cut)
	defer stop()
	m := <-ended
	if ctx.Err() != nil && errors.Is(m.Err, ErrCut) {
		m.Err = ctx.Err()
	}
	return m.Sent, m.Received, m.Err
}

// detach takes the socket out of Go's hands. The connection is closed, the
// socket is not.
func detach(c *net.TCPConn) (int, error) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("detach connection: %w", err)
	}
	fd, dup := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, dup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, fmt.Errorf("detach connection: %w", err)
	}
	if dup != nil {
		return -1, fmt.Errorf("detach connection: %w", dup)
	}
	return fd, nil
}

// Flow is a pair of connections in a Pump.
type Flow struct {
	worker  atomic.Pointer[worker]
	done    func(Moved)
	opening *opening // nil: both sides are connected
	half    [2]half  // 0: a to b; 1: b to a. half[i] reads fd[i]
	err     error    // the first one
	slot    int32    // in the worker's table
	fd      [2]int32
	seen    uint32 // the worker's window in which there was last something to do
	ended   bool
}

// Moved counts the bytes so far.
func (f *Flow) Moved() (sent, received int64) {
	return f.half[0].moved.Load(), f.half[1].moved.Load()
}

// Cut ends the flow by resets in both directions. It returns at once; done is
// called later. A flow that has ended is left alone.
func (f *Flow) Cut() { f.worker.Load().post(order{kind: orderCut, flow: f}) }
