// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"net/http"
	"net/netip"
	"syscall"
	"unsafe"

	"github.com/fairlead-lb/fairlead/pkg/conn"
)

// from notes whose connection it is.
func (s *session) from(peer netip.Addr) {
	s.peer, s.client, s.text = peer, peer, peer.AppendTo(nil)
}

// enter counts the connection of a client and tells whether it is within the
// limit. A trusted proxy has the connections of many.
func (s *session) enter() bool {
	if s.t.table.Load().isTrusted(s.peer) {
		return true
	}
	if !s.t.clients.enter(s.peer, s.t.cfg.Limits.PerClient) {
		return false
	}
	s.counts = s.peer
	return true
}

func (s *session) leave() {
	if s.counts.IsValid() {
		s.t.clients.leave(s.counts)
	}
}

// proxied reads the PROXY header of a trusted proxy, if there is one, and takes
// the client from it. It has as long as a head. false: the connection is over.
func (s *session) proxied() bool {
	s.watch.arm(s.t.clock, onClient, s.t.cfg.Limits.Head)
	buf := takeBuffer()
	defer returnBuffer(buf)
	for have := 0; ; {
		n, err := s.sock.peek(buf.b[:conn.MaxProxyHeader], have)
		if err != nil {
			if have > 0 && timedOut(err) {
				s.unproxied(http.StatusRequestTimeout, "the PROXY protocol header of a trusted proxy took too long")
			}
			return false
		}
		p, size, more, err := conn.ParseProxyHeader(buf.b[:n])
		switch {
		case err != nil:
			s.unproxied(http.StatusBadRequest, "of a trusted proxy: "+err.Error())
			return false
		case more:
			have = n
			continue
		case !s.sock.skip(buf.b[:size]) || !s.watch.disarm():
			return false
		case p.Client.IsValid():
			s.from(p.Client.Addr())
			return s.enter()
		}
		return true
	}
}

// unproxied counts and logs a connection that is closed because of its header.
// Nobody is answered: what the proxy would make of an answer is not known.
func (s *session) unproxied(code int, reason string) {
	s.t.nobody.stats.count(code, 0)
	if s.t.access.wants(code) {
		s.t.access.write(&entry{service: s.t.nobody.text, client: s.peer, status: code, reason: reason, proto: "PROXY"})
	}
	s.t.cfg.Log.Debug("connection closed", "client", s.peer, "reason", reason)
}

// peek looks at what there is to read and leaves it, once that is more than
// have bytes. What was sent before an end that cuts it short counts as nothing:
// the deadline is the end of that.
func (s *sock) peek(b []byte, have int) (n int, err error) {
	var errno syscall.Errno
	wait := s.raw.Read(func(fd uintptr) bool {
		var r uintptr
		r, _, errno = syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
			syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
		n = int(r)
		again := errno == syscall.EAGAIN || errno == syscall.EINTR
		return !again && (errno != 0 || n != have || n == 0)
	})
	if wait != nil {
		return 0, wait
	}
	if err := readError(n, errno); err != nil {
		return 0, err
	}
	return n, nil
}

// skip reads bytes that peek has seen.
func (s *sock) skip(b []byte) bool {
	for len(b) > 0 {
		n, err := s.read(b)
		if err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}
