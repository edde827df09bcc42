// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// bulkBlock is what is written and read at a time.
const bulkBlock = 256 << 10

// Bulk downloads as fast as it goes.
type Bulk struct {
	To     netip.AddrPort
	Conns  int
	For    time.Duration
	Prefix []byte // said once on every connection
}

// Run reads until the time is over. Done is in bytes. A connection that ends
// before is an error.
func (b Bulk) Run() (Result, error) {
	var (
		r     Result
		bytes atomic.Uint64
		wg    sync.WaitGroup
		errs  = make(chan error, b.Conns)
		conns []net.Conn
	)
	for range b.Conns {
		c, err := net.Dial("tcp", b.To.String())
		if err != nil {
			return r, fmt.Errorf("connect: %w", err)
		}
		defer c.Close()
		if _, err := c.Write(b.Prefix); err != nil {
			return r, fmt.Errorf("begin: %w", err)
		}
		conns = append(conns, c)
	}
	start, cpu := time.Now(), CPU()
	for _, c := range conns {
		wg.Go(func() {
			buf := make([]byte, bulkBlock)
			_ = c.SetReadDeadline(start.Add(b.For))
			for {
				n, err := c.Read(buf)
				bytes.Add(uint64(n))
				if errors.Is(err, os.ErrDeadlineExceeded) {
					return
				}
				if err != nil {
					errs <- fmt.Errorf("read: %w", err)
					return
				}
			}
		})
	}
	wg.Wait()
	r.Elapsed, r.CPU, r.Done = time.Since(start), CPU()-cpu, bytes.Load()
	select {
	case err := <-errs:
		return r, err
	default:
		return r, nil
	}
}

// ServeBulk writes to every connection of a listener until the other side has
// enough. It returns when the listener is closed.
func ServeBulk(l net.Listener) error {
	block := make([]byte, bulkBlock)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for {
				if _, err := c.Write(block); err != nil {
					return
				}
			}
		}()
	}
}
