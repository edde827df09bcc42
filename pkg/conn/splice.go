// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"

	"golang.org/x/sys/unix"
)

const (
	// pipeSize is asked for; the kernel may give less (pipe-user-pages-soft).
	pipeSize = 256 << 10
	// pipeLimit bounds the pipes of a worker. A direction that gets none is
	// copied.
	pipeLimit = 256
	// pipeSpare bounds those that are kept for later.
	pipeSpare = 16
	// bulkLeast is the least a splice moves in a direction that stays bulk.
	bulkLeast = copySize
)

// pipe is a kernel buffer between two sockets.
type pipe struct {
	r, w int
	n    int // bytes in it
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// takePipe returns an empty pipe; nil: there is none to be had.
func (w *worker) takePipe() *pipe {
	if n := len(w.idle); n > 0 {
		p := w.idle[n-1]
		w.idle = w.idle[:n-1]
		return p
	}
	if w.pipes >= pipeLimit {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	w.pipes++
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{r: fds[0], w: fds[1]}
}

// putPipe takes an empty pipe back.
func (w *worker) putPipe(p *pipe) {
	if len(w.idle) >= pipeSpare {
		p.close()
		w.pipes--
		return
	}
	w.idle = append(w.idle, p)
}

// splice fills a pipe from the source and empties it into the destination; 0:
// nothing can be moved now. A direction holds a pipe only while bytes are in
// it.
func (f *Flow) splice(side int) (int, error) {
	w, h, src, dst := f.worker.Load(), &f.half[side], int(f.fd[side]), int(f.fd[1-side])
	if h.pipe == nil {
		if len(h.pending) > 0 {
			return h.flush(dst)
		}
		if !h.readable || h.eof {
			return 0, nil
		}
		p := w.takePipe()
		if p == nil {
			h.bulk = false
			return f.copy(side)
		}
		n, err := splice(src, p.w, pipeSize)
		if n <= 0 || err != nil {
			w.putPipe(p)
			if errors.Is(err, unix.EAGAIN) {
				h.readable = false
				return 0, nil
			}
			h.eof = err == nil
			return 0, err
		}
		h.pipe, p.n = p, n
		if n < bulkLeast {
			h.bulk = false // the rest of this is copied, if there is any
		}
	}
	moved := 0
	for h.writable && h.pipe.n > 0 {
		n, err := splice(h.pipe.r, dst, h.pipe.n)
		if errors.Is(err, unix.EAGAIN) {
			h.writable = false
			break
		}
		if err != nil {
			return 0, writeError{err}
		}
		h.pipe.n -= n
		h.moved.Add(int64(n))
		moved += n
		w.load.bulk += int64(n)
	}
	if h.pipe.n == 0 {
		w.putPipe(h.pipe)
		h.pipe = nil
		return moved, nil
	}
	return 0, nil
}
