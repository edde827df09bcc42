// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

const (
	// dialTime bounds the connection to one replica.
	dialTime = 3 * time.Second
	// tries is how many times a connection is led to the replicas there are
	// then: the first one may be gone by now.
	tries    = 3
	tryPause = 50 * time.Millisecond
	// firstBytes is how much of what a client has sent goes to the replica at
	// once. The pump has the rest.
	firstBytes = 16 << 10
)

// handle puts one connection into the line of its service.
func (t *Target) handle(_ context.Context, c *conn.Conn) {
	to, ok := t.ports.Load().find(c.Local)
	if !ok {
		_ = c.Close()
		return
	}
	name := to.service.Name
	place, err := t.cfg.Enter(name, "connection", fmt.Sprintf("a connection from %s to port %d", c.Peer.Addr(), c.Local.Port()))
	if err != nil {
		t.fail(name, held{Conn: c}, err)
		return
	}
	if h := t.lines.add(name, held{Conn: c, port: to.port, place: place, since: time.Now()}); h != nil {
		t.refused.Add(1)
		reset(h.Conn)
		h.place.Leave()
	}
}

// serve leads the connections of one line on, in order, until there are none.
func (t *Target) serve(name model.ServiceName) {
	for {
		h, ok := t.lines.first(name)
		if !ok {
			return
		}
		err := t.lead(name, h)
		t.lines.next(name)
		h.place.Leave()
		if err != nil {
			t.fail(name, h, err)
		}
	}
}

// lead waits for a replica and joins the connection with it; then it belongs to
// the pump.
func (t *Target) lead(name model.ServiceName, h held) error {
	var up *net.TCPConn
	for try := 1; ; try++ {
		backends, err := h.place.Wait(t.ctx)
		if err != nil {
			return err
		}
		if isGone(h.TCPConn) {
			t.gone.Add(1)
			_ = h.Close()
			return nil
		}
		if up, err = reach(t.ctx, backends, h.port, h.Peer.Addr()); err == nil {
			break
		}
		if try == tries || t.ctx.Err() != nil {
			return err
		}
		select {
		case <-t.ctx.Done():
		case <-time.After(tryPause):
		}
	}
	first, err := forward(h.TCPConn, up)
	t.passed.Add(1)
	if t.cfg.Joined != nil {
		t.cfg.Joined(name)
	}
	if err != nil {
		t.cfg.Log.Debug("lead connection on", "service", name.String(), "client", h.Peer, "error", err)
	}
	end := t.joined.begin(name, h)
	if _, err := t.pump.Start(h.TCPConn, up, func(m conn.Moved) { end(int64(first)+m.Sent, m.Received) }); err != nil {
		end(int64(first), 0)
		t.cfg.Log.Warn("lead connection on", "service", name.String(), "error", err)
	}
	return nil
}

func (t *Target) fail(name model.ServiceName, h held, err error) {
	t.failed.Add(1)
	t.cfg.Log.Debug("connection to a sleeping service failed", "service", name.String(), "client", h.Peer, "error", err)
	reset(h.Conn)
}

// reset ends a connection so that the client does not take it for an empty
// answer.
func reset(c *conn.Conn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// forward moves what the client has sent so far, as far as it fits: the replica
// has it a turn of the scheduler earlier than by the pump.
func forward(from, to *net.TCPConn) (n int, err error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	b := make([]byte, firstBytes)
	if err := raw.Read(func(fd uintptr) bool { n, _ = unix.Read(int(fd), b); return true }); err != nil || n <= 0 {
		return 0, err // what is wrong with it the pump sees, too
	}
	return to.Write(b[:n]) // the buffer of a new connection is larger
}

// reach connects to a replica, in the client's family first.
func reach(ctx context.Context, backends []model.Backend, port uint16, client netip.Addr) (*net.TCPConn, error) {
	var errs []error
	for _, same := range []bool{true, false} {
		for _, b := range backends {
			for _, a := range b.Addrs() {
				if (a.Is4() == client.Is4()) != same {
					continue
				}
				to, cancel := context.WithTimeout(ctx, dialTime)
				up, err := conn.Dial(to, netip.AddrPortFrom(a, cmp.Or(b.Container, port)))
				cancel()
				if err == nil {
					return up, nil
				}
				errs = append(errs, fmt.Errorf("replica %s: %w", a, err))
			}
		}
	}
	if len(errs) == 0 {
		return nil, errors.New("no replica has an address")
	}
	return nil, errors.Join(errs...)
}

// tcpClose is TCP_CLOSE of the kernel's net/tcp_states.h.
const tcpClose = 7

// isGone tells whether the client has reset the connection. One that has only
// closed its half waits for its answer.
func isGone(c *net.TCPConn) (gone bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && info.State == tcpClose
	})
	return gone || err != nil
}

// unread is how many bytes wait in the socket.
func unread(c *net.TCPConn) (n int64) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if k, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ); err == nil {
			n = int64(k)
		}
	})
	return n
}
