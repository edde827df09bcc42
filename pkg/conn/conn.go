// SPDX-License-Identifier: Apache-2.0

// Package conn is the TCP plumbing of the fronts: accepting within limits,
// looking at the first bytes of a connection and giving them back, the PROXY
// protocol, and the pump that moves bytes between two connections. It knows no
// protocol above TCP and chooses nobody's peer.
package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Conn is an accepted connection whose first bytes may be read twice: what is
// put back with Unread is read again before what is still to come.
type Conn struct {
	*net.TCPConn

	// Peer is the client: what the PROXY protocol says, else the other end.
	Peer netip.AddrPort
	// Local is the address the client connected to, likewise.
	Local netip.AddrPort

	unread []byte
	routed func() // see Routed
}

// New wraps a connection; its ends are taken from the socket.
func New(c *net.TCPConn) *Conn {
	return &Conn{TCPConn: c, Peer: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr()), routed: func() {}}
}

// addrPort never has an IPv4-mapped address.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// Read reads what was put back first.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		if c.unread = c.unread[n:]; len(c.unread) == 0 {
			c.unread = nil
		}
		return n, nil
	}
	return c.TCPConn.Read(p)
}

// WriteTo writes what was put back first. It hides the TCPConn's, which knows
// nothing of that.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	head := c.TakeUnread()
	n, err := w.Write(head)
	if err != nil {
		return int64(n), err
	}
	m, err := c.TCPConn.WriteTo(w)
	return int64(n) + m, err
}

// Unread puts bytes back, before those put back earlier. It keeps p.
func (c *Conn) Unread(p []byte) {
	if len(p) > 0 {
		c.unread = append(p[:len(p):len(p)], c.unread...)
	}
}

// TakeUnread returns what was put back and not read again; from then on the
// TCPConn alone has the rest of the stream.
func (c *Conn) TakeUnread() []byte {
	b := c.unread
	c.unread = nil
	return b
}

// Routed tells the Acceptor that the connection is no longer one of those that
// have yet to say where they want to go. Calling it twice is harmless.
func (c *Conn) Routed() { c.routed() }

// keepAlive finds a peer that is gone without a word within two minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// deferAccept is how long, in seconds, the kernel keeps a connection to itself
// that has sent nothing yet. A silent one is accepted after that; the others
// need not be waited for.
const deferAccept = 1

// Listen opens a TCP listener for protocols in which the client speaks first.
// Its connections have fairlead's keep-alive, which they inherit: to set it on
// each is five calls.
func Listen(network, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) {
			err = errors.Join(setKeepAlive(int(fd)), os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, deferAccept)))
		})
		return errors.Join(ctl, err)
	}}
	return lc.Listen(context.Background(), network, address)
}

// setKeepAlive sets keepAlive on a socket.
func setKeepAlive(fd int) error {
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAlive.Interval.Seconds())},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAlive.Count},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// Dial opens a TCP connection; ctx bounds it. To a program of this host the
// handshake is over by the time connect(2) says that it is under way: the second
// one, which is Go's, finds that out at once. Without the first it waits for the
// poller, which comes when nothing else is to be done.
func Dial(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) {
			err = errors.Join(setKeepAlive(int(fd)), begin(int(fd), to))
		})
		return errors.Join(ctl, err)
	}}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("dial %s: not TCP", to)
	}
	return t, nil
}

// HalfCloser is a connection whose sending side can be closed alone:
// *net.TCPConn, *tls.Conn.
type HalfCloser interface {
	net.Conn
	CloseWrite() error
}

// Limits of Farewell: what a peer may still send to a connection that only
// waits for its end.
const (
	farewellTime  = time.Second
	farewellBytes = 256 << 10
)

var scratch = sync.Pool{New: func() any { b := make([]byte, 4096); return &b }}

// Farewell writes a last answer and closes the connection so that the peer
// gets it: what the peer still sends is read and thrown away for a moment,
// because a close with unread bytes is a reset, which would overtake the
// answer. It takes a second at most, and as long to write.
func Farewell(c HalfCloser, answer []byte) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(farewellTime))
	if len(answer) > 0 {
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
	if c.CloseWrite() != nil {
		return
	}
	b := scratch.Get().(*[]byte)
	defer scratch.Put(b)
	for n := 0; n < farewellBytes; {
		k, err := c.Read(*b)
		if err != nil {
			return
		}
		n += k
	}
}
