// SPDX-License-Identifier: Apache-2.0

// Package echo is a small server to try a balancer with: it answers over HTTP
// with what it sees of the request and of itself, and sends TCP streams and
// UDP datagrams back. It is not built to be fast or to face the internet.
package echo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Config says where to listen ("[host]:port") and who to be.
type Config struct {
	HTTP []string
	TCP  []string // streams sent back as they come
	UDP  []string // datagrams sent back
	// Name is told in the answers. Default: $FAIRLEAD_REPLICA, which the
	// process runner sets, else the host name.
	Name string
	Out  io.Writer // one line per listener; default: nothing is written
}

// stopTime is how long open HTTP requests may take after the end.
const stopTime = 2 * time.Second

// server is one running echo.
type server struct {
	name, host string

	mu    sync.Mutex
	conns map[net.Conn]struct{} // open TCP echo connections
}

// Run listens on every address and serves until ctx ends; then it closes all
// and returns nil. An address that cannot be had ends it before it serves.
func Run(ctx context.Context, cfg Config) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	for _, name := range []string{os.Getenv("FAIRLEAD_REPLICA"), host} {
		if cfg.Name == "" {
			cfg.Name = name
		}
	}
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	s := &server{name: cfg.Name, host: host, conns: map[net.Conn]struct{}{}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	serve, err := s.listen(ctx, cfg)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(serve))
	for i, f := range serve {
		wg.Go(func() {
			defer cancel() // one that fails ends the others
			errs[i] = f()
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// listen opens everything, or nothing, and returns what serves it.
func (s *server) listen(ctx context.Context, cfg Config) (serve []func() error, err error) {
	var open []io.Closer
	defer func() {
		if err != nil {
			for _, c := range open {
				_ = c.Close()
			}
		}
	}()
	if len(cfg.HTTP)+len(cfg.TCP)+len(cfg.UDP) == 0 {
		return nil, errors.New("nothing to listen on: name at least one address")
	}
	var lc net.ListenConfig
	add := func(kind string, addr net.Addr, c io.Closer, f func() error) {
		open, serve = append(open, c), append(serve, f)
		_, _ = fmt.Fprintf(cfg.Out, "%s: %s on %s\n", cfg.Name, kind, addr)
	}
	for _, a := range cfg.HTTP {
		ln, err := lc.Listen(ctx, "tcp", a)
		if err != nil {
			return nil, fmt.Errorf("listen for http: %w", err)
		}
		add("http", ln.Addr(), ln, func() error { return s.serveHTTP(ctx, ln) })
	}
	for _, a := range cfg.TCP {
		ln, err := lc.Listen(ctx, "tcp", a)
		if err != nil {
			return nil, fmt.Errorf("listen for tcp: %w", err)
		}
		add("tcp echo", ln.Addr(), ln, func() error { return s.serveTCP(ctx, ln) })
	}
	for _, a := range cfg.UDP {
		pc, err := lc.ListenPacket(ctx, "udp", a)
		if err != nil {
			return nil, fmt.Errorf("listen for udp: %w", err)
		}
		add("udp echo", pc.LocalAddr(), pc, func() error { return serveUDP(ctx, pc) })
	}
	return serve, nil
}

func (s *server) serveHTTP(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			_ = srv.Close()
		}
	})
	err := srv.Serve(ln)
	if !stop() {
		<-done
		return nil
	}
	return err
}
