// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below never block, so they do not tell the Go scheduler of
// themselves (RawSyscall): that costs more than it can save here.

// Recv reads what a socket has, and does not wait; EAGAIN: nothing. Within a
// RawConn's Read it needs a buffer only when there is something.
func Recv(fd int, p []byte) (int, error) { return recv(fd, p) }

// recv reads from a socket.
func recv(fd int, p []byte) (int, error) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))),
			uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
		if e == 0 {
			return int(n), nil
		}
		if e != unix.EINTR {
			return 0, errno(e)
		}
	}
}

// send writes to a socket.
func send(fd int, p []byte) (int, error) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))),
			uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if e == 0 {
			return int(n), nil
		}
		if e != unix.EINTR {
			return 0, errno(e)
		}
	}
}

// errAgain is EAGAIN as an error that costs no allocation.
var errAgain error = unix.EAGAIN

func errno(e syscall.Errno) error {
	if e == unix.EAGAIN {
		return errAgain
	}
	return e
}

// splice moves up to n bytes between a socket and a pipe.
func splice(from, to, n int) (int, error) {
	for {
		m, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR { //nolint:errorlint // x/sys returns it as it is
			return int(m), err
		}
	}
}

// epollPoll takes the events that are there, without a word to the scheduler.
func epollPoll(ep int, events []unix.EpollEvent) (int, error) {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), 0, 0, 0)
	if e != 0 {
		return 0, errno(e)
	}
	return int(n), nil
}
