// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// soPeerPIDFD is SO_PEERPIDFD of asm-generic/socket.h (Linux 6.5).
const soPeerPIDFD = 77

// Process is the other end of a conversation, held so that its id cannot come
// to mean another one.
type Process struct {
	PID   int  // 0: of a PID namespace that this process does not see
	pidfd int  // -1: cannot be held
	ended bool // before it could be held
}

// peerOf asks the kernel who is at the other end, and of which user.
func peerOf(c *net.UnixConn) (p *Process, uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, 0, fmt.Errorf("ask who is at the other end: %w", err)
	}
	p = &Process{pidfd: -1}
	ctl := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p.PID, uid = int(cred.Pid), int(cred.Uid)
		held, e := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, soPeerPIDFD)
		if errors.Is(e, unix.ENOPROTOOPT) && p.PID > 0 { // an older kernel
			held, e = unix.PidfdOpen(p.PID, 0)
		}
		switch {
		case e == nil:
			p.pidfd = held
		case errors.Is(e, unix.ESRCH):
			p.ended = true
		}
	})
	if err = errors.Join(ctl, err); err != nil {
		p.close()
		return nil, 0, fmt.Errorf("ask who is at the other end: %w", err)
	}
	return p, uid, nil
}

// Ended waits until the process has ended, and tells whether it has. One that
// cannot be held is taken to live.
func (p *Process) Ended(within time.Duration) bool {
	if p.pidfd < 0 {
		return p.ended
	}
	for end := time.Now().Add(within); ; {
		fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(max(time.Until(end), 0)/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}

// Kill ends the process at once.
func (p *Process) Kill() error {
	if p.pidfd < 0 {
		return fmt.Errorf("end process %d: it cannot be held", p.PID)
	}
	return unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
}

func (p *Process) close() {
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
		p.pidfd = -1
	}
}

// NetNS names the network namespace of the process.
func NetNS() string {
	name, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return "unknown: " + err.Error()
	}
	return name
}

// Dup opens a socket a second time, for another process; the caller closes it.
// It is the same socket: what is set on one is set on both.
func Dup(c syscall.Conn) (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, dup := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, dup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if dup != nil {
		return nil, os.NewSyscallError("fcntl", dup)
	}
	return os.NewFile(uintptr(fd), "copy"), nil
}
