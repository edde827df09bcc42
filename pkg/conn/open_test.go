// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attempt is one Open, with what became of it.
type attempt struct {
	client *net.TCPConn // the other end of a
	flow   *Flow
	opened chan result
	done   chan Moved
}

type result struct {
	a   *net.TCPConn
	err error
}

func open(t *testing.T, p *Pump, to netip.AddrPort, first string, limit time.Duration) *attempt {
	t.Helper()
	client, server := pair(t)
	o := &attempt{client: client, opened: make(chan result, 2), done: make(chan Moved, 2)}
	var err error
	o.flow, err = p.Open(server, to, []byte(first), limit, func(a *net.TCPConn, err error) { o.opened <- result{a, err} }, func(m Moved) { o.done <- m })
	must(t, err)
	return o
}

// unopened waits for the reason why there is no connection.
func (o *attempt) unopened(t *testing.T, want error) *net.TCPConn {
	t.Helper()
	select {
	case r := <-o.opened:
		if !errors.Is(r.err, want) {
			t.Errorf("opened with %v, want %v", r.err, want)
		}
		return r.a
	case <-time.After(20 * time.Second):
		t.Fatal("opened was not called")
	}
	return nil
}

func TestOpenBeginsWithTheFirstBytes(t *testing.T) {
	p := newPump(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	o := open(t, p, l.Addr().(*net.TCPAddr).AddrPort(), "first, ", time.Minute)
	_, err = io.WriteString(o.client, "then")
	must(t, err)
	must(t, o.client.CloseWrite())
	all, err := io.ReadAll(o.client)
	if string(all) != "first, then" || err != nil {
		t.Errorf("came back: %q, %v", all, err)
	}
	if r := <-o.opened; r.err != nil || r.a != nil {
		t.Errorf("opened with %v", r)
	}
	if m := <-o.done; m.Sent != 11 || m.Received != 11 || m.Err != nil {
		t.Errorf("moved %+v", m)
	}
}

// Who refuses, at once or not, has the client given back with all it said.
func TestOpenGivesBack(t *testing.T) {
	p := newPump(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	refuses := l.Addr().(*net.TCPAddr).AddrPort()
	_ = l.Close()
	for name, to := range map[string]struct {
		at   netip.AddrPort
		want error
	}{
		"refused":  {refuses, syscall.ECONNREFUSED},
		"no route": {netip.MustParseAddrPort("[fe80::1]:1"), syscall.EINVAL}, // link-local without a link
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t, p, to.at, "first", time.Minute)
			a := o.unopened(t, to.want)
			if a == nil {
				t.Fatal("the client is lost")
			}
			defer a.Close()
			_, err := io.WriteString(o.client, "still here")
			must(t, err)
			b := make([]byte, 10)
			if _, err := io.ReadFull(a, b); err != nil || string(b) != "still here" {
				t.Errorf("read %q, %v", b, err)
			}
			_, err = io.WriteString(a, "me too")
			must(t, err)
			if _, err := io.ReadFull(o.client, b[:6]); err != nil {
				t.Error(err)
			}
		})
	}
}

// silent is an address that answers no SYN: its queue is full.
func silent(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(t, unix.Listen(fd, 0))
	sa, err := unix.Getsockname(fd)
	must(t, err)
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
	for range 3 {
		d := net.Dialer{Timeout: 200 * time.Millisecond}
		if c, err := d.Dial("tcp", at.String()); err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	return at
}

func TestOpenInTime(t *testing.T) {
	p := newPump(t)
	at := silent(t)
	begun := time.Now()
	o := open(t, p, at, "first", 200*time.Millisecond)
	a := o.unopened(t, ErrUnanswered)
	if took := time.Since(begun); a == nil || took < 200*time.Millisecond {
		t.Errorf("gave %v back after %s", a, took)
	}
	_ = a.Close()

	// What is cut, and what the end of the pump cuts, is reset.
	o = open(t, p, at, "first", time.Minute)
	o.flow.Cut()
	if a := o.unopened(t, ErrCut); a != nil {
		t.Error("a connection that is cut is given back")
	}
	if _, err := o.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client of what was cut reads %v", err)
	}
	o = open(t, p, at, "first", time.Minute)
	p.Close()
	if a := o.unopened(t, ErrCut); a != nil {
		t.Error("a connection of a pump that ends is given back")
	}
	select {
	case m := <-o.done:
		t.Errorf("done was called: %+v", m)
	default:
	}
}

// A client that leaves while the connection is made ends the flow in order.
func TestOpenWithoutAClient(t *testing.T) {
	p := newPump(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	heard := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		b, _ := io.ReadAll(c)
		heard <- string(b)
		_ = c.Close()
	}()
	client, server := pair(t)
	must(t, client.Close())
	done := make(chan Moved, 1)
	_, err = p.Open(server, l.Addr().(*net.TCPAddr).AddrPort(), []byte("last words"), time.Minute, func(*net.TCPConn, error) {}, func(m Moved) { done <- m })
	must(t, err)
	if got := <-heard; got != "last words" {
		t.Errorf("the replica heard %q", got)
	}
	<-done
}

// Row W08: a connection to this host is there as soon as it is asked for, without
// a wait for the poller; what is refused, or cannot be reached, says so.
func TestW08Dial(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		to := l.Addr().(*net.TCPAddr).AddrPort()
		fd, err := connect(to)
		if err != nil {
			t.Fatal(err)
		}
		if err := begin(fd, to); err != nil {
			t.Errorf("%s: connect, the second time: %v", to, err)
		}
		if _, err := unix.Getpeername(fd); err != nil {
			t.Errorf("%s: not connected: %v", to, err)
		}
		_ = unix.Close(fd)
		c, err := Dial(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			for name, want := range map[int]int{unix.TCP_NODELAY: 1, unix.TCP_KEEPIDLE: int(keepAlive.Idle.Seconds())} {
				if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, name); got != want || err != nil {
					t.Errorf("%s: option %d is %d, want %d: %v", to, name, got, want, err)
				}
			}
		}); err != nil {
			t.Error(err)
		}
		_ = c.Close()
		_ = l.Close()
		if c, err := Dial(t.Context(), to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: connection %v, error %v, want that it is refused", to, c, err)
		}
	}
	if c, err := Dial(t.Context(), netip.MustParseAddrPort("255.255.255.255:1")); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("connection %v, error %v, want that there is no way", c, err)
	}
}
