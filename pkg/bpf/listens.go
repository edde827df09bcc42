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

// listens is who is told of listen() calls. The ring buffer has one reader
// however many watch: a second one would take events from the first.
type listens struct {
	mu       sync.Mutex
	reader   *ringbuf.Reader
	watchers map[*listenWatch]func()
	done     chan struct{} // closed when reader is no longer read
}

// WatchListens calls notify after every listen() of a TCP socket by a process
// of the cgroup2 directory or below, in whatever network namespace, and maybe
// for directories that others watch; it must not block. Several at one time may
// be told of once. Nothing is pinned: the closer or the end of the process ends
// it.
func (o *Objects) WatchListens(cgroup string, notify func()) (io.Closer, error) {
	w := &listenWatch{o: o}
	if err := o.listens.add(o, w, notify); err != nil {
		return nil, err
	}
	var err error
	w.link, err = link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupSockOps, Program: o.progs[opsProgFlOps]})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch listens in %s: %w", cgroup, err), o.listens.remove(w))
	}
	return w, nil
}

// add has one more be told; the first opens the reader.
func (l *listens) add(o *Objects, w *listenWatch, notify func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reader == nil {
		r, err := ringbuf.NewReader(o.maps[opsMapFlListens])
		if err != nil {
			return fmt.Errorf("watch listens: open ring buffer: %w", err)
		}
		l.reader, l.watchers, l.done = r, map[*listenWatch]func(){}, make(chan struct{})
		go l.read(o, r, l.done)
	}
	l.watchers[w] = notify
	return nil
}

func (l *listens) read(o *Objects, r *ringbuf.Reader, done chan<- struct{}) {
	defer close(done)
	var rec ringbuf.Record
	for {
		if err := r.ReadInto(&rec); err != nil {
			if !errors.Is(err, os.ErrClosed) {
				o.cfg.Log.Error("watch listens", "error", err)
			}
			return
		}
		l.mu.Lock()
		for _, notify := range l.watchers {
			notify()
		}
		l.mu.Unlock()
	}
}

// remove tells w no more; with the last one the reader is closed.
func (l *listens) remove(w *listenWatch) error {
	l.mu.Lock()
	delete(l.watchers, w)
	if len(l.watchers) > 0 {
		l.mu.Unlock()
		return nil
	}
	reader, done := l.reader, l.done
	l.reader = nil
	l.mu.Unlock()
	err := reader.Close()
	<-done
	return err
}

type listenWatch struct {
	o    *Objects
	link link.Link
}

// Close detaches and waits for the last notify.
func (w *listenWatch) Close() error {
	return errors.Join(w.link.Close(), w.o.listens.remove(w))
}
