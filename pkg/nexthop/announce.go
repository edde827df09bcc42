// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// announcements are the messages of some multicast groups that nobody has read.
type announcements struct {
	fd  int
	buf []byte
}

// subscribe opens a socket for read.
func subscribe(sub subscription) (announcements, error) {
	conn, err := sub.open()
	if err != nil {
		return announcements{fd: -1}, err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return announcements{fd: -1}, fmt.Errorf("subscribe to netlink: %w", err)
	}
	a := announcements{fd: -1, buf: make([]byte, announcementMax)}
	dupErr := errors.New("no descriptor")
	err = raw.Control(func(fd uintptr) { a.fd, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, dupErr); err != nil {
		return announcements{fd: -1}, fmt.Errorf("subscribe to netlink: %w", err)
	}
	return a, nil
}

// announcementMax is more than messages take. One that is longer, as of an interface
// with hundreds of virtual functions, counts as missed.
const announcementMax = 64 << 10

func (a *announcements) close() { _ = unix.Close(a.fd) }

// read hands over the messages that wait, and waits for none. missed tells that
// some were lost before.
func (a *announcements) read(got func(kind uint16, data []byte)) (missed bool) {
	for {
		n, _, flags, _, err := unix.Recvmsg(a.fd, a.buf, nil, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return missed
		case errors.Is(err, unix.ENOBUFS):
			missed = true
			continue
		case err != nil:
			return true
		}
		missed = missed || flags&unix.MSG_TRUNC != 0
		for m := range messages(a.buf[:n]) {
			got(m.kind, m.data)
		}
	}
}
