// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sock is a connection read and written by system calls within the runtime's
// poller, so that a wait holds no buffer and a request costs no call that finds
// nothing. With TLS it goes through crypto/tls. One goroutine may read while
// another writes.
type sock struct {
	tcp *net.TCPConn
	raw syscall.RawConn
	tls *tls.Conn // nil: cleartext

	// Of the read and the write under way, for callbacks that are made once.
	in      []byte
	inLen   int
	inErr   error
	inHold  *buffer
	out     []byte
	outErr  error
	started bool   // exchange has written
	guard   *guard // bounds writes that wait; may be nil

	onRead, onPooled, onWrite, onExchange func(uintptr) bool
	first                                 [1]byte // of TLS data, while there is no buffer
}

func (s *sock) init(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	s.tcp, s.raw = c, raw
	s.onRead, s.onPooled, s.onWrite, s.onExchange = s.tryRead, s.tryPooled, s.tryWrite, s.tryExchange
	return nil
}

// read reads what there is, at least a byte. io.EOF tells of the end.
func (s *sock) read(b []byte) (int, error) {
	if s.tls != nil {
		return s.tls.Read(b)
	}
	s.in = b
	if err := s.raw.Read(s.onRead); err != nil {
		return 0, err
	}
	s.in = nil
	return s.inLen, s.inErr
}

func (s *sock) tryRead(fd uintptr) bool {
	n, errno := recv(fd, s.in)
	if errno == syscall.EAGAIN {
		return false
	}
	s.inLen, s.inErr = n, readError(n, errno)
	return true
}

// readPooled is read into a buffer of the pool, held or nil, that is given back
// while the connection waits. The buffer returned is nil if there is an error.
func (s *sock) readPooled(held *buffer) (*buffer, int, error) {
	if s.tls != nil {
		return s.readPooledTLS(held)
	}
	s.inHold = held
	err := s.raw.Read(s.onPooled)
	b := s.inHold
	s.inHold = nil
	if err == nil {
		err = s.inErr
	}
	if err != nil {
		if b != nil {
			returnBuffer(b)
		}
		return nil, 0, err
	}
	return b, s.inLen, nil
}

func (s *sock) tryPooled(fd uintptr) bool {
	if s.inHold == nil {
		s.inHold = takeBuffer()
	}
	n, errno := recv(fd, s.inHold.b[:])
	if errno == syscall.EAGAIN {
		returnBuffer(s.inHold)
		s.inHold = nil
		return false
	}
	s.inLen, s.inErr = n, readError(n, errno)
	return true
}

// readPooledTLS waits with one byte; what came with it is decrypted already.
func (s *sock) readPooledTLS(held *buffer) (*buffer, int, error) {
	if held != nil {
		returnBuffer(held)
	}
	n, err := s.tls.Read(s.first[:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return nil, 0, err
	}
	b := takeBuffer()
	b.b[0] = s.first[0]
	n, err = s.tls.Read(b.b[1:])
	_ = err // the next read says it again
	return b, n + 1, nil
}

// write writes all of b.
func (s *sock) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if s.tls != nil {
		if s.guard != nil {
			s.guard.wait()
			defer s.guard.end()
		}
		_, err := s.tls.Write(b)
		return err
	}
	s.out = b
	err := s.raw.Write(s.onWrite)
	s.out = nil
	if s.guard != nil {
		s.guard.end()
	}
	if err == nil {
		err = s.outErr
	}
	return err
}

func (s *sock) tryWrite(fd uintptr) bool {
	done := s.push(fd)
	if !done && s.guard != nil {
		s.guard.wait()
	}
	return done
}

// guard interrupts a write that the peer does not take.
type guard struct {
	watch   watch
	clock   *clock
	limit   time.Duration
	waiting bool
}

// wait begins the time anew: the peer has taken some, or it is the first wait.
func (g *guard) wait() {
	g.watch.arm(g.clock, onClient, g.limit)
	g.waiting = true
}

func (g *guard) end() {
	if g.waiting {
		g.watch.disarm()
		g.waiting = false
	}
}

// push writes of out what the socket takes and tells whether that is the end
// of it.
func (s *sock) push(fd uintptr) bool {
	for {
		n, errno := transmit(fd, s.out)
		switch {
		case errno == syscall.EAGAIN:
			return false
		case errno != 0:
			s.outErr = os.NewSyscallError("write", errno)
			return true
		}
		if s.out = s.out[n:]; len(s.out) == 0 {
			s.outErr = nil
			return true
		}
	}
}

// exchange writes all of out and then reads the answer into in, which may be
// the same memory. The first try to read, which finds nothing, is saved: the
// write happens after the poller was told to wait.
func (s *sock) exchange(out, in []byte) (int, error) {
	if s.tls != nil {
		if _, err := s.tls.Write(out); err != nil {
			return 0, err
		}
		return s.tls.Read(in)
	}
	s.out, s.in, s.started, s.outErr = out, in, false, nil
	err := s.raw.Read(s.onExchange)
	rest := s.out
	s.out = nil
	if err == nil && s.outErr != nil {
		err = s.outErr
	}
	if err == nil && len(rest) > 0 { // the socket took a part only
		if err = s.write(rest); err == nil {
			return s.read(in)
		}
	}
	s.in = nil
	if err != nil {
		return 0, err
	}
	return s.inLen, s.inErr
}

func (s *sock) tryExchange(fd uintptr) bool {
	if s.started {
		return s.tryRead(fd)
	}
	s.started = true
	return !s.push(fd) || s.outErr != nil
}

// alive tells whether nothing came while nobody waited: an idle connection
// that can be read has ended, or is out of step.
func (s *sock) alive() bool {
	alive := false
	err := s.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&b[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
		alive = errno == syscall.EAGAIN
	})
	return err == nil && alive
}

// left tells whether the peer has ended its direction.
func (s *sock) left() bool {
	gone := false
	err := s.raw.Control(func(fd uintptr) {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p[:], 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return err != nil || gone
}

// closeWrite ends this direction.
func (s *sock) closeWrite() {
	if s.tls != nil {
		_ = s.tls.CloseWrite()
	}
	_ = s.tcp.CloseWrite()
}

func (s *sock) close() {
	if s.tls != nil {
		// An alert says that the end is one. The peer may not read it.
		_ = s.tcp.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_ = s.tls.Close()
		return
	}
	_ = s.tcp.Close()
}

var past = time.Unix(1, 0)

// interrupt ends the read and the write under way with os.ErrDeadlineExceeded.
func (s *sock) interrupt() { _ = s.tcp.SetDeadline(past) }

func readError(n int, errno syscall.Errno) error {
	switch {
	case errno != 0:
		return os.NewSyscallError("read", errno)
	case n == 0:
		return io.EOF
	}
	return nil
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// recv and transmit are raw: the sockets do not block, so the scheduler need not
// know.
func recv(fd uintptr, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}

func transmit(fd uintptr, b []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			syscall.MSG_NOSIGNAL, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), 0
	}
}
