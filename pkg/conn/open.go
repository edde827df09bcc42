// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// opening is the time in which the second side of a flow is being connected.
type opening struct {
	opened func(a *net.TCPConn, err error)
	to     netip.AddrPort
	expiry *time.Timer
}

// ErrUnanswered says that a connection was not answered in time.
var ErrUnanswered = errors.New("no answer in time")

// Open joins a with a connection to an address that is made meanwhile, and
// begins with first, which it keeps. No goroutine waits for the connection: a
// worker does, as for everything else that becomes of the flow. a belongs to
// the pump.
//
// opened is called once, with nil when the connection is there, and then must
// not block; done follows, as for Start. When there is none, within limit or at
// all, opened gets a back, with nothing read of it, and why; done is not
// called. a is nil, and closed, where it cannot be had back, and for ErrCut. An
// address that is refused at once has opened called by the caller of Open, which
// returns no flow. When Open returns an error nothing is called, and a is closed.
func (p *Pump) Open(a *net.TCPConn, to netip.AddrPort, first []byte, limit time.Duration, opened func(a *net.TCPConn, err error), done func(Moved)) (*Flow, error) {
	fdB, err := connect(to)
	if err != nil {
		opened(a, err)
		return nil, nil
	}
	fdA, err := detach(a)
	if err != nil {
		_ = unix.Close(fdB)
		return nil, err
	}
	f := &Flow{done: done, opening: &opening{opened: opened, to: to}}
	f.fd = [2]int32{int32(fdA), int32(fdB)}
	f.half[0].pending = first
	w := p.worker()
	f.worker.Store(w)
	f.opening.expiry = time.AfterFunc(limit, func() { f.worker.Load().post(order{kind: orderExpire, flow: f}) })
	if !w.take(f, false) {
		f.opening.expiry.Stop()
		_ = unix.Close(fdA)
		_ = unix.Close(fdB)
		return nil, errPumpClosed
	}
	return f, nil
}

// connect begins a connection with fairlead's keep-alive.
func connect(to netip.AddrPort) (int, error) {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = errors.Join(setKeepAlive(fd), os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)))
	if err == nil {
		err = begin(fd, to)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// begin has a socket that does not block connect.
func begin(fd int, to netip.AddrPort) error {
	var addr unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	if to.Addr().Is4() {
		addr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	if err := unix.Connect(fd, addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return os.NewSyscallError("connect", err)
	}
	return nil
}

// connecting takes note of an event of a flow that is not open yet. What the
// client does meanwhile is looked at when it is.
func (f *Flow) connecting(side int, events uint32) {
	if side == 0 {
		f.half[0].readable = f.half[0].readable || events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		f.half[0].hangup = f.half[0].hangup || events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
		f.half[1].writable = f.half[1].writable || events&unix.EPOLLOUT != 0
		return
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	o := f.opening
	if err := connected(int(f.fd[1]), o.to); err != nil {
		f.unopened(err)
		return
	}
	f.opening = nil
	o.expiry.Stop()
	o.opened(nil, nil)
	f.event(1, events)
	if !f.ended {
		f.move(0)
	}
}

// connected tells how an attempt ended.
func connected(fd int, to netip.AddrPort) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return os.NewSyscallError("connect", syscall.Errno(code))
	}
	// On this host a socket that got the port it connects to is joined with
	// itself: nobody listens there.
	own, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	switch own := own.(type) {
	case *unix.SockaddrInet4:
		if own.Port == int(to.Port()) && own.Addr == to.Addr().As4() {
			return os.NewSyscallError("connect", syscall.ECONNREFUSED)
		}
	case *unix.SockaddrInet6:
		if own.Port == int(to.Port()) && own.Addr == to.Addr().As16() {
			return os.NewSyscallError("connect", syscall.ECONNREFUSED)
		}
	}
	return nil
}

// unopened ends a flow whose second side cannot be connected, and gives the
// first one back.
func (f *Flow) unopened(why error) {
	o, w := f.opening, f.worker.Load()
	f.opening, f.ended = nil, true
	o.expiry.Stop()
	_ = unix.EpollCtl(w.ep, unix.EPOLL_CTL_DEL, int(f.fd[0]), nil)
	_ = unix.Close(int(f.fd[1]))
	w.flows[f.slot] = nil
	w.freed = append(w.freed, f.slot)
	w.pump.wg.Go(func() { giveBack(int(f.fd[0]), why, o.opened) })
}

// giveBack makes a connection of Go's of a socket again.
func giveBack(fd int, why error, opened func(*net.TCPConn, error)) {
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	if errors.Is(why, ErrCut) {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		opened(nil, why)
		return
	}
	c, err := net.FileConn(file)
	if err != nil {
		opened(nil, errors.Join(why, err))
		return
	}
	opened(c.(*net.TCPConn), why)
}
