// SPDX-License-Identifier: Apache-2.0

package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

const (
	tcpConns   = 256 // connections at once
	tcpQueries = 128 // questions of one connection
	tcpIdle    = 8 * time.Second
)

// server is one open address.
type server struct {
	address string // as the config says it
	udp     net.PacketConn
	tcp     net.Listener
	servers []*dns.Server
	wg      sync.WaitGroup
	ended   atomic.Bool // one of the servers ended by itself
}

// listen opens an address over UDP and TCP and serves it. free lets it bind an
// address that no interface has (an IPv6 one, even if it is local by a route).
func listen(address string, t *Target, free bool) (*server, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		if !free {
			return nil
		}
		level, option := unix.SOL_IP, unix.IP_FREEBIND
		if strings.HasSuffix(network, "6") {
			level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
		}
		var err error
		if ctl := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); ctl != nil {
			return ctl
		}
		return err
	}}
	s := &server{address: address}
	var err error
	ctx := context.Background()
	s.udp, err = inherit(t, "dns udp "+address, net.FilePacketConn, func() (net.PacketConn, error) { return lc.ListenPacket(ctx, "udp", address) })
	if err != nil {
		return nil, err
	}
	s.tcp, err = inherit(t, "dns tcp "+address, net.FileListener, func() (net.Listener, error) { return lc.Listen(ctx, "tcp", address) })
	if err != nil {
		_ = s.udp.Close()
		return nil, err
	}
	s.servers = []*dns.Server{
		{PacketConn: s.udp, Handler: t, UDPSize: dns.DefaultMsgSize},
		{
			Listener: netutil.LimitListener(s.tcp, tcpConns), Handler: t, MaxTCPQueries: tcpQueries,
			ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second, IdleTimeout: func() time.Duration { return tcpIdle },
		},
	}
	for _, d := range s.servers {
		begun := make(chan struct{})
		var once sync.Once
		begin := func() { once.Do(func() { close(begun) }) }
		d.NotifyStartedFunc = begin
		s.wg.Go(func() {
			defer begin()
			if err := d.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
				t.cfg.Log.Error("serve internal names", "address", address, "error", err)
			}
			s.ended.Store(true)
		})
		<-begun
	}
	return s, nil
}

// inherit opens a socket, or takes the one over that a predecessor left under the
// name, and notes it for a successor.
func inherit[T any](t *Target, name string, from func(*os.File) (T, error), open func() (T, error)) (l T, err error) {
	if f := t.cfg.Take(name); f != nil {
		l, err = from(f)
		_ = f.Close()
	} else {
		l, err = open()
	}
	if c, ok := any(l).(syscall.Conn); ok && err == nil {
		t.cfg.Keep(name, c)
	}
	return l, err
}

func explain(address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen.dns %s: the address is in use by another program, perhaps the host's own resolver; choose one of network.services, such as 198.18.0.1:53", address)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen.dns %s: this host has no such address; choose one that it has, or one of network.services, which it is given then", address)
	}
	return fmt.Errorf("listen.dns %s: %w", address, err)
}

func (s *server) lives() bool { return !s.ended.Load() }

func (s *server) addr() netip.AddrPort {
	a, _ := netip.ParseAddrPort(s.udp.LocalAddr().String())
	return a
}

// close stops listening and waits for the questions under way, which the
// upstreams' timeouts bound.
func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, d := range s.servers {
		_ = d.ShutdownContext(ctx)
	}
	_ = s.udp.Close() // where Shutdown could not
	_ = s.tcp.Close()
	s.wg.Wait()
}
