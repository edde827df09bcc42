// SPDX-License-Identifier: Apache-2.0

// Package load makes TCP and UDP traffic and answers it, with as little work
// of its own as system calls allow: one thread with epoll at either end, so
// that what is measured is the path between them. It speaks no protocol: a
// request is RequestSize bytes, an answer AnswerSize.
package load

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sizes of a request and its answer in bytes.
const (
	RequestSize = 64
	AnswerSize  = 128
)

// Requests is a closed loop of requests over TCP.
type Requests struct {
	To    netip.AddrPort
	Conns int           // open at a time
	Close bool          // a new connection for every request
	For   time.Duration // then it stops
	Each  bool          // note how long every request took
	// Prefix is said once on every connection, before its first request. The
	// Server must skip as many bytes.
	Prefix []byte
}

// Result is what a loop did.
type Result struct {
	Done    uint64        `json:"done"`   // answered requests, or datagrams sent
	Failed  uint64        `json:"failed"` // connections refused, reset or cut
	Elapsed time.Duration `json:"elapsed"`
	CPU     time.Duration `json:"cpu"`              // of this process, what the kernel did in its name included
	Median  time.Duration `json:"median,omitempty"` // with Each
	P99     time.Duration `json:"p99,omitempty"`
}

// PerSecond is the rate of what was done.
func (r Result) PerSecond() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Done) / r.Elapsed.Seconds()
}

// Pin binds the calling goroutine to its thread and that to a CPU, counted
// modulo those there are.
func Pin(cpu int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu % runtime.NumCPU())
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to CPU %d: %w", cpu, err)
	}
	return nil
}

// CPU is the CPU time this process has used. Packets that its system calls send
// are carried on within them, so a path through network namespaces of one
// machine is mostly in here.
func CPU() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// poller is an epoll instance.
type poller struct {
	fd     int
	busy   bool // the last wait brought something
	events [128]unix.EpollEvent
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &poller{fd: fd}, nil
}

func (p *poller) add(fd int, events uint32) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// wait returns what is ready, at the latest after 50 ms. In a busy loop the Go
// scheduler is not told of the call: it would take the loop away from its
// thread every few milliseconds, and look after that thousands of times a
// second.
func (p *poller) wait() ([]unix.EpollEvent, error) {
	var n int
	var err error
	if p.busy {
		r, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), 50, 0, 0)
		if n = int(r); e != 0 {
			n, err = 0, e
		}
	} else {
		n, err = unix.EpollWait(p.fd, p.events[:], 50)
	}
	p.busy = n > 0
	if errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return p.events[:n], nil
}

// read and write are for sockets that do not block.
func read(fd int, b []byte) (int, error) { return call(unix.SYS_READ, fd, b) }

func write(fd int, b []byte) (int, error) { return call(unix.SYS_WRITE, fd, b) }

func call(number uintptr, fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

func (p *poller) close() { _ = unix.Close(p.fd) }
