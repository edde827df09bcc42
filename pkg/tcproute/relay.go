// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/fairlead-lb/fairlead/pkg/conn"
)

// relay copies both ways until both sides have ended, or one has failed; first
// is what the client has said already. It returns at once: the goroutine of a
// handshake has a large stack, and goes on to the next handshake.
func (s *serving) relay(to *route, at netip.AddrPort, back conn.HalfCloser, tcp *net.TCPConn, first []byte) {
	client, front := s.c.TCPConn, s.tls
	cut := func() {
		_ = client.SetLinger(0)
		_ = tcp.SetLinger(0)
		_ = client.Close()
		_ = tcp.Close()
	}
	ses := &session{to: to, at: at, abort: cut, client: s.c.Peer, since: s.now()}
	leave := s.flows.add(ses)
	var watch func([]byte)
	if s.kind == Postgres {
		router := s.Router
		k := &keyWatch{found: func(key string) { router.flows.cancelable(ses, key) }}
		watch = k.see
	}
	var sent, received int64
	var both sync.WaitGroup // of the two directions
	both.Add(2)
	s.wg.Go(func() {
		defer both.Done()
		k, err := back.Write(first)
		first = nil
		if err == nil {
			sent, err = stream(back, front, nil)
		}
		sent += int64(k)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			cut()
			return
		}
		// Many clients end without TLS's own goodbye. What they said is whole
		// for the replica's protocol to judge.
		_ = back.CloseWrite()
	})
	s.wg.Go(func() {
		var err error
		if received, err = stream(front, back, watch); err != nil {
			cut()
		} else {
			_ = front.CloseWrite() // refused where the client is gone: the other direction sees it
		}
		both.Done()
		both.Wait()
		_ = front.Close()
		_ = back.Close()
		leave(sent, received)
	})
}

// Sizes of the buffers of stream. A direction that waits for TLS holds the
// small one only, one that waits for TCP none.
const (
	streamSmall = 1 << 10
	streamLarge = 32 << 10
)

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, streamLarge); return &b }}

// stream copies until the end of src. see, if there is one, is shown the
// bytes.
func stream(dst, src net.Conn, see func([]byte)) (n int64, err error) {
	var r reader = &smallFirst{src: src}
	if tcp, ok := src.(*net.TCPConn); ok {
		if r, err = newBare(tcp); err != nil {
			return 0, err
		}
	}
	defer r.release()
	for {
		b, err := r.next()
		if see != nil {
			see(b)
		}
		if len(b) > 0 {
			m, err := dst.Write(b)
			n += int64(m)
			if err != nil {
				return n, err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

// reader lends the bytes that it reads until the next call.
type reader interface {
	next() ([]byte, error)
	release()
}

// smallFirst reads into a small buffer, and into a large one as long as the
// last was filled.
type smallFirst struct {
	src   net.Conn
	small [streamSmall]byte
	large *[]byte
	many  bool
}

func (r *smallFirst) next() ([]byte, error) {
	if r.many && r.large == nil {
		r.large = largeBuffers.Get().(*[]byte)
	}
	if !r.many {
		r.release()
	}
	buf := r.small[:]
	if r.large != nil {
		buf = *r.large
	}
	n, err := r.src.Read(buf)
	r.many = n >= streamSmall
	return buf[:n], err
}

func (r *smallFirst) release() {
	if r.large != nil {
		largeBuffers.Put(r.large)
		r.large = nil
	}
}

// bare reads from a socket, with a buffer only while there is something to read.
type bare struct {
	raw   syscall.RawConn
	try   func(uintptr) bool // made once
	large *[]byte
	n     int
	err   error
}

func newBare(c *net.TCPConn) (*bare, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &bare{raw: raw}
	r.try = r.read
	return r, nil
}

func (r *bare) next() ([]byte, error) {
	r.n, r.err = 0, nil
	if err := r.raw.Read(r.try); err != nil {
		return nil, err
	}
	if r.err != nil {
		return nil, r.err
	}
	return (*r.large)[:r.n], nil
}

// read is called until it has something; false: the poller waits.
func (r *bare) read(fd uintptr) bool {
	if r.large == nil {
		r.large = largeBuffers.Get().(*[]byte)
	}
	n, err := conn.Recv(int(fd), *r.large)
	switch {
	case errors.Is(err, syscall.EAGAIN):
		r.release()
		return false
	case err == nil && n == 0:
		err = io.EOF
	}
	r.n, r.err = n, err
	return true
}

func (r *bare) release() {
	if r.large != nil {
		largeBuffers.Put(r.large)
		r.large = nil
	}
}
