// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"golang.org/x/sys/unix"
)

// listener is one open port.
type listener struct {
	address string // as the state has it
	secure  bool
	l       *net.TCPListener
	once    sync.Once
	closing chan struct{} // closed by stop
	done    chan struct{} // closed when nothing is accepted any more
}

// listen opens and closes what the state asks for. t.mu is held.
func (t *Target) listen(s *model.State) error {
	var errs []error
	for secure, want := range map[bool]string{false: s.Settings.Listen.HTTP, true: s.Settings.Listen.HTTPS} {
		if plain, tls := asksFor(s); !plain || secure && (!tls || t.cfg.Certificates == nil) {
			want = ""
		}
		if err := t.move(secure, want); err != nil {
			key := "listen.http"
			if secure {
				key = "listen.https"
			}
			errs = append(errs, fmt.Errorf("%s %s: %w", key, want, err))
		}
	}
	return errors.Join(errs...)
}

// move has a listener on the wanted address, or none. The old one goes on
// while the new one cannot be had; where it is in the new one's way (the same
// port of other addresses) it makes room.
func (t *Target) move(secure bool, want string) error {
	have := t.listeners[secure]
	if have != nil && have.address == want {
		return nil
	}
	var next *listener
	if want != "" {
		var err error
		next, err = t.open(want, secure)
		if errors.Is(err, syscall.EADDRINUSE) && have != nil && samePort(have.address, want) {
			t.drop(have) // who keeps its socket is in the way, too
			if next, err = t.open(want, secure); err != nil {
				t.listeners[secure], _ = t.open(have.address, secure) // back, if nobody was faster
				have = nil
			}
		}
		if err != nil {
			if t.listeners[secure] == nil {
				delete(t.listeners, secure)
			}
			return err
		}
		t.listeners[secure] = next
	} else {
		delete(t.listeners, secure)
	}
	if have != nil {
		t.drop(have)
	}
	return nil
}

// drop ends a listener for good.
func (t *Target) drop(l *listener) {
	l.stop()
	if t.cfg.Sockets != nil {
		t.cfg.Sockets.Drop(socketName(l.address))
	}
}

func samePort(a, b string) bool {
	_, p, err1 := net.SplitHostPort(a)
	_, q, err2 := net.SplitHostPort(b)
	return err1 == nil && err2 == nil && (p == q || p == "0")
}

// open listens on an address, on a predecessor's socket if there is one.
func (t *Target) open(address string, secure bool) (*listener, error) {
	l, err := conn.Inherit(t.cfg.Sockets, socketName(address))
	if l == nil && err == nil {
		l, err = bind(address)
	}
	if err != nil {
		return nil, err
	}
	out := &listener{address: address, secure: secure, l: l, closing: make(chan struct{}), done: make(chan struct{})}
	t.wg.Go(func() { t.accept(out) })
	if t.cfg.Sockets != nil {
		t.cfg.Sockets.Keep(socketName(address), out.l)
	}
	t.cfg.Log.Info("HTTP served", "address", l.Addr().String(), "tls", secure)
	return out, nil
}

// socketName is a listener's name in Sockets.
func socketName(address string) string { return "http " + address }

// bind opens a socket of our own.
func bind(address string) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) { err = options(int(fd)) })
		return errors.Join(ctl, err)
	}}
	l, err := lc.Listen(context.Background(), "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, errInUse
	case err != nil:
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// inUse is EADDRINUSE in words for the owner of the config.
type inUse struct{}

func (inUse) Error() string {
	return "the address is in use by another program: stop it, or choose another address"
}
func (inUse) Unwrap() error { return syscall.EADDRINUSE }

var errInUse error = inUse{}

// options are those that accepted connections inherit.
func options(fd int) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %d: %w", o.name, err)
		}
	}
	return nil
}

// accept takes connections until the listener is closed. Errors of single
// connections, and too many open files, do not end it.
func (t *Target) accept(l *listener) {
	defer close(l.done)
	if t.cfg.Begin != nil {
		select {
		case <-t.cfg.Begin:
		case <-l.closing:
			return // what waits in the socket's queue is a predecessor's, who has the socket too
		}
	}
	pause := time.Millisecond
	for {
		c, err := l.l.AcceptTCP()
		switch {
		case err == nil:
			pause = time.Millisecond
			t.begin(c, l.secure)
		case errors.Is(err, net.ErrClosed):
			return
		default:
			t.cfg.Log.Warn("accept", "address", l.address, "error", err, "again in", pause)
			time.Sleep(pause)
			pause = min(2*pause, time.Second)
		}
	}
}

// begin serves a connection in a goroutine of its own.
func (t *Target) begin(c *net.TCPConn, secure bool) {
	peer := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
	s := &session{t: t, secure: secure, first: true}
	s.fresh.Store(true)
	s.from(peer)
	if !s.enter() {
		_ = c.SetLinger(0)
		_ = c.Close()
		return
	}
	if err := s.sock.init(c); err != nil || !t.admit(s) {
		_ = c.Close()
		s.leave()
		return
	}
	s.watch.expire = s.expire
	s.sock.guard = &guard{clock: t.clock, limit: t.cfg.Limits.Stall}
	s.sock.guard.watch.expire = func(phase) { s.sock.interrupt() }
	go func() {
		defer t.wg.Done()
		shard, guards := t.clock.add(&s.watch), t.clock.add(&s.sock.guard.watch)
		s.guarded()
		s.sock.close()
		shard.remove(&s.watch)
		guards.remove(&s.sock.guard.watch)
		t.smu.Lock()
		delete(t.sessions, s)
		t.smu.Unlock()
		s.leave()
	}()
}

// guarded serves, and keeps a fault of ours to the one connection.
func (s *session) guarded() {
	defer func() {
		if p := recover(); p != nil {
			s.t.cfg.Log.Error("connection ended by a fault of fairlead", "client", s.peer, "panic", p, "stack", string(debug.Stack()))
			if u := s.up.Load(); u != nil {
				u.close()
			}
		}
	}()
	s.serve()
}

// admit notes a session that begins, unless the front is closed.
func (t *Target) admit(s *session) bool {
	t.smu.Lock() // not mu: Apply waits for accept loops to end
	defer t.smu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(1)
	t.sessions[s] = struct{}{}
	return true
}

// Addrs are the addresses listened on, without and with TLS; nil: none.
func (t *Target) Addrs() (plain, secure net.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.listeners[false]; l != nil {
		plain = l.l.Addr()
	}
	if l := t.listeners[true]; l != nil {
		secure = l.l.Addr()
	}
	return plain, secure
}

// stop accepts no more and closes the listener. The kernel resets what it
// has not handed over yet, unless Sockets keeps the socket for a successor.
func (l *listener) stop() {
	l.once.Do(func() { close(l.closing) })
	_ = l.l.Close()
	<-l.done
}
