// SPDX-License-Identifier: Apache-2.0

package echo

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// serveTCP sends every stream back until its sender closes; a half-close is
// answered with the rest of the bytes and a half-close.
func (s *server) serveTCP(ctx context.Context, ln net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.closeAll()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	pause := time.Millisecond
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // out of descriptors, or a connection that is gone again
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		s.track(conn, true)
		wg.Go(func() {
			_, _ = io.Copy(conn, conn)
			s.track(conn, false)
			_ = conn.Close()
		})
	}
}

func (s *server) track(conn net.Conn, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open {
		s.conns[conn] = struct{}{}
	} else {
		delete(s.conns, conn)
	}
}

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
}

func serveUDP(ctx context.Context, pc net.PacketConn) error {
	defer context.AfterFunc(ctx, func() { _ = pc.Close() })()
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err == nil { // an error is an ICMP answer to an earlier datagram
			_, _ = pc.WriteTo(buf[:n], from)
		}
	}
}
