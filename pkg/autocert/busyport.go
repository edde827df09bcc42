// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// busyPort is a loopback port that is taken. certmagic opens port 80 and 443
// itself while it solves a challenge, unless somebody listens there already.
// Those ports are the fronts', which open and close them as the config says:
// so it is told to use this one, finds it taken, and leaves the answers to
// whoever serves the ports.
type busyPort struct {
	l  net.Listener
	wg sync.WaitGroup
}

func newBusyPort() (*busyPort, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("keep the challenge library off the fronts' ports: %w", err)
	}
	p := &busyPort{l: l}
	p.wg.Go(p.refuse)
	return p, nil
}

// refuse closes every connection: certmagic only looks whether one is made.
func (p *busyPort) refuse() {
	for {
		c, err := p.l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(100 * time.Millisecond) // out of descriptors; it passes
		default:
			_ = c.Close()
		}
	}
}

func (p *busyPort) port() int { return p.l.Addr().(*net.TCPAddr).Port }

func (p *busyPort) close() error {
	err := p.l.Close()
	p.wg.Wait()
	return err
}
