// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

const (
	// sessionIdle is how long a session lives without a datagram; the next one
	// begins another.
	sessionIdle = time.Minute
	// mostSessions bounds what programs of this host can open.
	mostSessions = 1024
)

// sessions are conversations over UDP between programs on this host and services
// that slept as they began. Such a program's socket is bound to the virtual IP, by
// its connect, before there is a replica, and nothing translates its datagrams
// afterwards: this host takes them and sends them on.
type sessions struct {
	log *slog.Logger
	wg  sync.WaitGroup

	mu   sync.Mutex
	by   map[pair]*session
	used map[model.ServiceName]uint64 // datagrams of clients so far
}

type pair struct{ client, vip netip.AddrPort }

// session is a socket that the client takes for the service, connected to it so
// that its datagrams come there and not to the one of all, and one to a replica.
type session struct {
	service  model.ServiceName
	nap      uint64 // of the service, that it has woken from
	down, up *net.UDPConn
}

func (s *session) close() {
	_ = s.down.Close()
	_ = s.up.Close()
}

var errManySessions = errors.New("too many programs of this host talk to services that slept")

// send has a datagram go to a replica, in the session of its client.
func (s *sessions) send(ctx context.Context, name model.ServiceName, g datagram, backends []model.Backend) error {
	key := pair{g.client, g.vip}
	s.mu.Lock()
	x, full := s.by[key], len(s.by) >= mostSessions
	s.mu.Unlock()
	switch {
	case x == nil && full:
		return errManySessions
	case x == nil:
		var err error
		if x, err = newSession(ctx, name, g, backends); err != nil {
			return err
		}
		s.mu.Lock()
		s.by[key] = x
		s.mu.Unlock()
		s.wg.Go(func() { s.move(key, x) })
	}
	s.count(name)
	_, err := x.up.Write(g.data)
	return err
}

func (s *sessions) count(name model.ServiceName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[name]++
}

// newSession opens both sockets.
func newSession(ctx context.Context, name model.ServiceName, g datagram, backends []model.Backend) (*session, error) {
	x := &session{service: name, nap: g.nap}
	shared := func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			if g.vip.Addr().Is6() { // its route is local, the address is on no interface
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1))
			}
		}), err)
	}
	at := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(g.vip), Control: shared}
	down, err := at.DialContext(ctx, "udp", g.client.String())
	if err != nil {
		return nil, fmt.Errorf("answer for %s: %w", g.vip, err)
	}
	x.down = down.(*net.UDPConn)
	err = errors.New("no replica has an address")
	for _, b := range backends {
		for _, a := range b.Addrs() {
			var up net.Conn
			if up, err = new(net.Dialer).DialContext(ctx, "udp", netip.AddrPortFrom(a, cmp.Or(b.Container, g.port)).String()); err == nil {
				x.up = up.(*net.UDPConn)
				return x, nil
			}
		}
	}
	_ = down.Close()
	return nil, err
}

// move has datagrams go both ways until the session is idle, or one of its ends
// is gone.
func (s *sessions) move(key pair, x *session) {
	answers := make(chan error, 1)
	go func() {
		answers <- x.copy(x.down, x.up, func() {})
		x.close()
	}()
	err := x.copy(x.up, x.down, func() { s.count(x.service) })
	s.mu.Lock()
	if s.by[key] == x {
		delete(s.by, key)
	}
	s.mu.Unlock()
	x.close()
	s.log.Debug("session of a program on this host ended", "service", x.service.String(), "client", key.client, "error", errors.Join(err, <-answers))
}

// copy moves datagrams one way. Both ways live as long as one of them is used.
func (x *session) copy(to, from *net.UDPConn, moved func()) error {
	b := make([]byte, mostDatagram)
	for {
		_ = from.SetReadDeadline(time.Now().Add(sessionIdle))
		n, err := from.Read(b)
		if err != nil {
			return err
		}
		_ = to.SetReadDeadline(time.Now().Add(sessionIdle))
		moved()
		if _, err := to.Write(b[:n]); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
	}
}

// apply ends the sessions of services that have fallen asleep since they began, or
// are gone: the next datagram of such a client is held, and wakes. A state in which
// the service still sleeps may come after its first session.
func (s *sessions) apply(st *model.State) {
	s.end(func(x *session) bool {
		svc, ok := st.Service(x.service)
		return !ok || svc.Sleep == model.Asleep && svc.Nap != x.nap
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.used, func(name model.ServiceName, _ uint64) bool {
		_, ok := st.Service(name)
		return !ok
	})
}

func (s *sessions) end(is func(*session) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, x := range s.by {
		if is(x) {
			delete(s.by, key)
			x.close()
		}
	}
}

// uses counts datagrams by service.
func (s *sessions) uses() map[model.ServiceName]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.used)
}
