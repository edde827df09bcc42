// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// listens is who is told of listen() calls. The ring buffer has one reader
// however many watch: a second one would take events from the first.
type listens struct {
	mu       sync.Mutex
	reader   *ringbuf.Reader // nil: nobody watches
	file     *os.File        // the same, to wait for
	watchers map[*listenWatch]func(Listen)
	done     chan struct{} // closed when reader is no longer read
}

// Listen is a socket that takes connections, or datagrams, from now on.
type Listen struct {
	Netns uint64         // cookie of its network namespace (SO_NETNS_COOKIE); 0: the kernel does not tell
	At    netip.AddrPort // 0.0.0.0 and [::] for any address; [::] maybe without IPv4
	UDP   bool
}

// WatchListens calls notify after every listen() of a TCP socket and every
// bind() of a UDP socket by a process of the cgroup2 directory or below, in
// whatever network namespace, and maybe for directories that others watch; it
// must not block. A burst that the buffer cannot hold loses some. Nothing is
// pinned: the closer or the end of the process ends it.
func (o *Objects) WatchListens(cgroup string, notify func(Listen)) (io.Closer, error) {
	w := &listenWatch{o: o}
	if err := o.listens.add(o, w, notify); err != nil {
		return nil, err
	}
	for _, h := range []struct {
		at   ebpf.AttachType
		prog string
	}{
		{ebpf.AttachCGroupSockOps, opsProgFlOps},
		{ebpf.AttachCGroupInet4PostBind, opsProgFlBind4},
		{ebpf.AttachCGroupInet6PostBind, opsProgFlBind6},
	} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.at, Program: o.progs[h.prog]})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watch listens in %s: %w", cgroup, err), w.Close())
		}
		w.links = append(w.links, l)
	}
	return w, nil
}

// add has one more be told; the first opens the reader.
func (l *listens) add(o *Objects, w *listenWatch, notify func(Listen)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reader == nil {
		r, err := ringbuf.NewReader(o.maps[opsMapFlListens])
		if err != nil {
			return fmt.Errorf("watch listens: open ring buffer: %w", err)
		}
		if l.file, err = pollable(o.maps[opsMapFlListens]); err != nil {
			return fmt.Errorf("watch listens: poll ring buffer: %w", errors.Join(err, r.Close()))
		}
		l.reader, l.watchers, l.done = r, map[*listenWatch]func(Listen){}, make(chan struct{})
		go l.read(o, r, l.file, l.done)
	}
	l.watchers[w] = notify
	return nil
}

// read tells of events until the reader is closed. It waits in Go's own poller
// rather than in the library's: then it is one and the same thread that gets an
// event and goes on with whoever waited for it, which on a busy machine saves
// milliseconds.
func (l *listens) read(o *Objects, r *ringbuf.Reader, f *os.File, done chan<- struct{}) {
	defer close(done)
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Read(func(uintptr) bool { return !l.drain(o, r) })
	}
	if err != nil && l.reads(r) {
		o.cfg.Log.Error("watch listens", "error", err)
	}
}

// reads tells whether a reader is still wanted: the error of a file that was
// closed while it was waited for is none that os knows.
func (l *listens) reads(r *ringbuf.Reader) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reader == r
}

// drain tells of what there is; false: there will be no more.
func (l *listens) drain(o *Objects, r *ringbuf.Reader) bool {
	var rec ringbuf.Record
	r.SetDeadline(time.Unix(1, 0)) // do not wait
	for {
		if err := r.ReadInto(&rec); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return true
			}
			if !errors.Is(err, os.ErrClosed) {
				o.cfg.Log.Error("watch listens", "error", err)
			}
			return false
		}
		e, err := parseListen(rec.RawSample)
		if err != nil {
			o.cfg.Log.Error("watch listens", "error", err)
			continue
		}
		l.mu.Lock()
		for _, notify := range l.watchers {
			notify(e)
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
	reader, file, done := l.reader, l.file, l.done
	l.reader, l.file = nil, nil
	l.mu.Unlock()
	err := errors.Join(file.Close(), reader.Close())
	<-done
	return err
}

// pollable is a map that Go's poller waits for.
func pollable(m *ebpf.Map) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "ring buffer"), nil
}

type listenWatch struct {
	o     *Objects
	links []link.Link
}

// Close detaches and waits for the last notify.
func (w *listenWatch) Close() error {
	var errs []error
	for _, l := range w.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(append(errs, w.o.listens.remove(w))...)
}

// listenSize is that of struct listen_event (bpf/ops.c).
const listenSize = 32

func parseListen(b []byte) (Listen, error) {
	if len(b) < listenSize { // the kernel rounds it up
		return Listen{}, fmt.Errorf("event of %d bytes, want %d", len(b), listenSize)
	}
	e := Listen{Netns: binary.NativeEndian.Uint64(b), UDP: b[26] == unix.IPPROTO_UDP}
	addr := netip.AddrFrom16([16]byte(b[8:24])).Unmap()
	e.At = netip.AddrPortFrom(addr, binary.NativeEndian.Uint16(b[24:]))
	return e, nil
}
