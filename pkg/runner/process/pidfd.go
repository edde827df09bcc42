// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// proc is a running process: a child of this agent or of an earlier one.
type proc struct {
	pid int
	fd  *os.File // pidfd: readable once the process has ended
}

// newProc takes over a pidfd.
func newProc(pid, fd int) (*proc, error) {
	if err := unix.SetNonblock(fd, true); err != nil { // lets the runtime's poller wait for it
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	return &proc{pid: pid, fd: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid))}, nil
}

// findProc finds the very process a record tells of; nil when it has ended.
func findProc(rec record) *proc {
	if rec.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(rec.PID, 0)
	if err != nil {
		return nil
	}
	// Only now that the pidfd holds the process can its PID not be reused.
	p, err := newProc(rec.PID, fd)
	if err != nil {
		return nil
	}
	if start, err := startOf(rec.PID); err != nil || start != rec.Start || p.ended() {
		p.close()
		return nil
	}
	return p
}

func (p *proc) close() { _ = p.fd.Close() }

func (p *proc) ended() bool {
	var ended bool
	if c, err := p.fd.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { ended = readable(fd) })
	}
	return ended
}

// wait returns in words how the process ended, or ok false when ctx did.
func (p *proc) wait(ctx context.Context) (how string, ok bool) {
	defer context.AfterFunc(ctx, func() { _ = p.fd.SetReadDeadline(time.Unix(1, 0)) })()
	c, err := p.fd.SyscallConn()
	if err != nil {
		return "", false
	}
	err = c.Read(func(fd uintptr) bool {
		if ok = readable(fd); ok {
			how = reap(fd)
		}
		return ok
	})
	if ok {
		return how, true
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) { // no poller for pidfds: kernel before 5.3
		<-ctx.Done()
	}
	return "", false
}

// reap collects the exit status, if the process is a child of this agent.
func reap(fd uintptr) string {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG, nil); err != nil {
		return "ended; its exit status went to an earlier agent"
	}
	// SIGCHLD's part of siginfo_t on 64-bit machines: pid, uid, status.
	status := *(*int32)(unsafe.Add(unsafe.Pointer(&info), 24))
	switch info.Code {
	case cldExited:
		return fmt.Sprintf("exit status %d", status)
	default:
		return fmt.Sprintf("killed by %s", unix.SignalName(unix.Signal(status)))
	}
}

// cldExited is CLD_EXITED of siginfo.h: a normal exit, status is its code.
const cldExited = 1

func readable(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// bury closes the process's pidfd after it has ended, and collects its exit
// status so that no zombie stays.
func (p *proc) bury() {
	if c, err := p.fd.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) {
			if readable(fd) {
				reap(fd)
			}
		})
	}
	p.close()
}
