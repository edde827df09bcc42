// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ring sends on many sockets by one system call (io_uring(7)). It is not asked
// to wait for anything: each send is done, in part or not at all by the time
// the call returns, so it belongs to no thread and no buffer is lent for
// longer.
type ring struct {
	fd        int
	mem, reqs []byte // mapped: both queues' heads and tails and the completions; the requests

	sqes       []sqe
	cqes       []cqe
	tail       *uint32 // of the requests: ours
	head, done *uint32 // of the completions: ours; the kernel's
	queued     uint32
	results    [ringSize]int32 // by request; bytes, or less than 0: an errno
}

// ringSize is how many sends one call may have; a power of two.
const ringSize = 256

// Of include/uapi/linux/io_uring.h.
const (
	setupSubmitAll  = 1 << 7 // Linux 5.18; a request that is refused does not hold the others back
	opSend          = 26
	enterGetEvents  = 1
	offRequestQueue = 0x10000000
)

type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   sqOffsets
	cq                                                   cqOffsets
}

// Places in ring.mem.
type (
	sqOffsets struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cqOffsets struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
)

type sqe struct {
	op, flags uint8
	priority  uint16
	fd        int32
	_         uint64
	addr      uint64
	len       uint32
	msgFlags  uint32
	user      uint64
	_         [3]uint64
}

type cqe struct {
	user  uint64
	res   int32
	flags uint32
}

// newRing fails before Linux 5.18 and where io_uring is forbidden (sysctl
// kernel.io_uring_disabled, a container's seccomp filter).
func newRing() (*ring, error) {
	p := ringParams{flags: setupSubmitAll}
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, ringSize, uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil, os.NewSyscallError("io_uring_setup", e)
	}
	r := &ring{fd: int(fd)}
	var err error
	size := max(int(p.cq.cqes)+int(p.cqEntries)*int(unsafe.Sizeof(cqe{})), int(p.sq.array)+int(p.sqEntries)*4)
	if r.mem, err = unix.Mmap(r.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err == nil {
		r.reqs, err = unix.Mmap(r.fd, offRequestQueue, int(p.sqEntries)*int(unsafe.Sizeof(sqe{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	if err != nil {
		r.close()
		return nil, fmt.Errorf("map io_uring: %w", err)
	}
	at := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[offset])) }
	r.tail, r.head, r.done = at(p.sq.tail), at(p.cq.head), at(p.cq.tail)
	r.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&r.reqs[0])), p.sqEntries)
	r.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&r.mem[p.cq.cqes])), p.cqEntries)
	for i := range p.sqEntries {
		*at(p.sq.array + 4*i) = i // a request's place in the queue is its place in sqes
	}
	return r, nil
}

// ProbeRing tells why the pump sends messages one by one here; nil: it does not.
func ProbeRing() error {
	r, err := newRing()
	if err == nil {
		r.close()
	}
	return err
}

func (r *ring) close() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
	}
	if r.reqs != nil {
		_ = unix.Munmap(r.reqs)
	}
	_ = unix.Close(r.fd)
}

// send adds a send, of which there may be ringSize before a submit. p must
// stay as it is until then.
func (r *ring) send(fd int, p []byte) {
	s := &r.sqes[(*r.tail+r.queued)%uint32(len(r.sqes))]
	*s = sqe{
		op: opSend, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))), len: uint32(len(p)),
		msgFlags: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL, user: uint64(r.queued),
	}
	r.queued++
}

// submit carries out what was added and returns the results in that order. On
// an error the ring is of no use any more, and the sends without a result were
// not begun.
func (r *ring) submit() ([]int32, error) {
	n := r.queued
	r.queued = 0
	atomic.StoreUint32(r.tail, *r.tail+n)
	begun := uint32(0)
	var err error
	for begun < n && err == nil {
		k := 0
		if k, err = r.enter(n-begun, 0, 0); err == nil && k == 0 {
			err = os.NewSyscallError("io_uring_enter", unix.EAGAIN)
		}
		begun += uint32(k)
	}
	for i := range begun {
		r.results[i] = -int32(unix.EIO) // whatever becomes of it, it is not to be sent again
	}
	for got := r.reap(); got < begun; got += r.reap() { // not seen: they have ended when enter has
		if _, e := r.enter(0, begun-got, enterGetEvents); e != nil {
			return r.results[:begun], e
		}
	}
	return r.results[:begun], err
}

// reap notes results that are there; n: so many.
func (r *ring) reap() (n uint32) {
	head, tail := *r.head, atomic.LoadUint32(r.done)
	n = tail - head
	for ; head != tail; head++ {
		c := &r.cqes[head%uint32(len(r.cqes))]
		r.results[c.user] = c.res
	}
	atomic.StoreUint32(r.head, head)
	return n
}

func (r *ring) enter(submit, wait, flags uint32) (int, error) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), uintptr(wait), uintptr(flags), 0, 0)
		if e == 0 {
			return int(n), nil
		}
		if e != unix.EINTR {
			return 0, os.NewSyscallError("io_uring_enter", e)
		}
	}
}
