// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"net"
	"net/http"
	"sync"
)

// serveH2 serves a connection that speaks HTTP/2 to its end; read is what was
// read of it.
func (t *Target) serveH2(s *session, read []byte) {
	s.mode.Store(modeBusy)
	var c net.Conn = s.sock.tcp
	if s.sock.tls != nil {
		c = s.sock.tls
	} else if len(read) > 0 {
		c = &replay{Conn: c, read: bytes.NewReader(read)}
	}
	t.handed.give(c, s)
}

type sessionKey struct{}

// handed is a listener of connections that were accepted elsewhere.
type handed struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	ends   sync.Map // connection → *handedOver
}

type handedOver struct {
	s   *session
	end chan struct{} // closed when the server is done with it
}

func newHanded() *handed {
	return &handed{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give has the server serve the connection and returns when it is over.
func (h *handed) give(c net.Conn, s *session) {
	o := &handedOver{s, make(chan struct{})}
	h.ends.Store(c, o)
	defer h.ends.Delete(c)
	select {
	case h.conns <- c:
		s.fresh.Store(false)
		<-o.end
	case <-h.closed:
	}
}

func (h *handed) sessionOf(c net.Conn) *session {
	if o, ok := h.ends.Load(c); ok {
		return o.(*handedOver).s
	}
	return nil
}

func (h *handed) state(c net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		if o, ok := h.ends.LoadAndDelete(c); ok {
			close(o.(*handedOver).end)
		}
	}
}

// Accept waits for a connection.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr is nobody's.
func (h *handed) Addr() net.Addr { return &net.TCPAddr{} }

// replay gives the bytes that were read already once more.
type replay struct {
	net.Conn
	read *bytes.Reader
}

func (r *replay) Read(b []byte) (int, error) {
	if r.read.Len() > 0 {
		return r.read.Read(b)
	}
	return r.Conn.Read(b)
}
