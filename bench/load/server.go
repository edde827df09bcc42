// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Server answers requests on a TCP port and counts datagrams on a UDP port, on
// every address.
type Server struct {
	// Prefix is how many bytes of every TCP connection are skipped before the
	// first request. Set it before ServeTCP.
	Prefix int

	tcp, udp  int
	datagrams atomic.Uint64
}

// Listen opens both ports. They are closed when the process ends.
func Listen(tcpPort, udpPort uint16) (*Server, error) {
	s := &Server{}
	var err error
	if s.tcp, err = bound(unix.SOCK_STREAM|unix.SOCK_NONBLOCK, tcpPort); err != nil {
		return nil, err
	}
	if err := unix.Listen(s.tcp, 4096); err != nil {
		return nil, fmt.Errorf("listen on TCP port %d: %w", tcpPort, err)
	}
	if s.udp, err = bound(unix.SOCK_DGRAM, udpPort); err != nil {
		return nil, err
	}
	// What does not fit is lost, as everywhere; less of it with a large buffer.
	_ = unix.SetsockoptInt(s.udp, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	return s, nil
}

func bound(kind int, port uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	_, sa := sockaddr(netip.AddrPortFrom(netip.IPv6Unspecified(), port))
	if err := unix.Bind(fd, sa); err != nil {
		return 0, fmt.Errorf("bind port %d: %w", port, err)
	}
	return fd, nil
}

// Datagrams counts what has come so far.
func (s *Server) Datagrams() uint64 { return s.datagrams.Load() }

// ServeUDP counts datagrams; it returns on an error only.
func (s *Server) ServeUDP() error {
	var buf [2048]byte
	for {
		_, err := unix.Read(s.udp, buf[:])
		switch {
		case err == nil:
			s.datagrams.Add(1)
		case !errors.Is(err, unix.EINTR):
			return fmt.Errorf("receive datagrams: %w", err)
		}
	}
}

// ServeTCP answers requests; it returns on an error only.
func (s *Server) ServeTCP() error {
	poll, err := newPoller()
	if err != nil {
		return err
	}
	defer poll.close()
	if err := poll.add(s.tcp, unix.EPOLLIN); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	pending := map[int32]int{} // bytes of requests that are not whole yet
	for {
		events, err := poll.wait()
		if err != nil {
			return err
		}
		for _, e := range events {
			if int(e.Fd) == s.tcp {
				s.accept(poll, pending)
				continue
			}
			answer(e.Fd, pending)
		}
	}
}

func (s *Server) accept(poll *poller, pending map[int32]int) {
	for {
		fd, _, err := unix.Accept4(s.tcp, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // none is left, or it is gone again
		}
		if poll.add(fd, unix.EPOLLIN) != nil {
			_ = unix.Close(fd)
			continue
		}
		delete(pending, int32(fd))
		if s.Prefix > 0 {
			pending[int32(fd)] = -s.Prefix
		}
	}
}

func answer(fd int32, pending map[int32]int) {
	var (
		buf  [RequestSize]byte
		text [AnswerSize]byte
	)
	n, err := read(int(fd), buf[:])
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if err == nil && n > 0 {
		if n += pending[fd]; n < RequestSize {
			pending[fd] = n
			return
		}
		delete(pending, fd)
		if _, err = write(int(fd), text[:]); err == nil {
			return
		}
	}
	delete(pending, fd)
	_ = unix.Close(int(fd))
}
