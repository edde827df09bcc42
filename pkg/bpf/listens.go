// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
)

// WatchListens calls notify after every listen() of a TCP socket by a process
// of the cgroup2 directory or below, in whatever network namespace; it must not
// block. Several at one time may be told of once. Nothing is pinned: the closer
// or the end of the process ends it.
func (o *Objects) WatchListens(cgroup string, notify func()) (io.Closer, error) {
	r, err := ringbuf.NewReader(o.maps[opsMapFlListens])
	if err != nil {
		return nil, fmt.Errorf("watch listens: open ring buffer: %w", err)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupSockOps, Program: o.progs[opsProgFlOps]})
	if err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("watch listens in %s: %w", cgroup, err)
	}
	w := &listenWatch{r: r, l: l}
	w.wg.Go(func() {
		var rec ringbuf.Record
		for {
			if err := r.ReadInto(&rec); err != nil {
				if !errors.Is(err, os.ErrClosed) {
					o.cfg.Log.Error("watch listens", "error", err)
				}
				return
			}
			notify()
		}
	})
	return w, nil
}

type listenWatch struct {
	r  *ringbuf.Reader
	l  link.Link
	wg sync.WaitGroup
}

// Close detaches and waits for the last notify.
func (w *listenWatch) Close() error {
	err := errors.Join(w.l.Close(), w.r.Close())
	w.wg.Wait()
	return err
}
