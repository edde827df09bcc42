// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Heard is a socket that takes connections, or datagrams, from now on.
type Heard struct {
	Netns uint64         // cookie of its network namespace; 0: the kernel does not tell
	At    netip.AddrPort // 0.0.0.0 and [::] for any address
	UDP   bool
}

// Watch calls back after every listen(), and every bind() of UDP, in a cgroup2
// directory and below, until it is closed.
type Watch func(cgroup string, notify func(Heard)) (io.Closer, error)

// Ear finds out at once that a replica is ready: by what it listens on. The
// zero Ear is deaf: replicas that start are looked at again and again.
type Ear struct {
	mu      sync.Mutex
	hears   bool
	waiting []*waiter
	known   map[uint64]*waiter // those of waiting whose namespace is known
}

// waiter is a replica that starts.
type waiter struct {
	s    Start
	told chan struct{} // holds one: there is something to look at
	done atomic.Bool   // it is ready
}

// ready says so, once.
func (w *waiter) ready() {
	if w.done.CompareAndSwap(false, true) && w.s.Ready != nil {
		w.s.Ready()
	}
}

func (w *waiter) tell() {
	select {
	case w.told <- struct{}{}:
	default:
	}
}

// Open listens to a cgroup2 directory, which it makes: before the first
// replica, so that none is missed. After an error the Ear is deaf. The returned
// function, never nil, ends it.
func (e *Ear) Open(dir string, watch Watch) (stop func(), err error) {
	if watch == nil {
		return func() {}, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return func() {}, err
	}
	e.open(true)
	c, err := watch(dir, e.hear)
	if err != nil {
		e.open(false)
		return func() {}, err
	}
	return func() { _ = c.Close() }, nil
}

func (e *Ear) open(hears bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hears = hears
}

// hear makes the replica ready whose port it is. Where nobody says whose it is,
// every replica that starts is looked at. With the lock, so that nothing is said
// of a replica after its Await.
func (e *Ear) hear(h Heard) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w := e.known[h.Netns]; w != nil {
		if w.s.takes(h) && w.done.CompareAndSwap(false, true) && w.s.Ready != nil && w.s.Ready() {
			time.AfterFunc(newsTime, w.tell)
			return
		}
		w.tell()
		return
	}
	for _, w := range e.waiting {
		if h.Netns == 0 || w.s.Netns == 0 {
			w.tell()
		}
	}
}

// takes tells whether the replica is ready by what was heard: a connection to
// such a socket always succeeds.
func (s Start) takes(h Heard) bool {
	tcp, udp := Split(s.Ports)
	wanted := tcp
	if len(tcp) == 0 {
		wanted = udp
	}
	a := h.At.Addr()
	return !s.Head && h.UDP == (len(tcp) == 0) && slices.Contains(wanted, h.At.Port()) &&
		(a.IsUnspecified() || slices.Contains(s.Addrs, a))
}

// await registers a replica until the returned function is called. hears tells
// whether it will be told of what there is to look at.
func (e *Ear) await(s Start) (w *waiter, hears bool, stop func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w = &waiter{s: s, told: make(chan struct{}, 1)}
	e.waiting = append(e.waiting, w)
	if s.Netns != 0 {
		if e.known == nil {
			e.known = map[uint64]*waiter{}
		}
		e.known[s.Netns] = w
	}
	return w, e.hears, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.waiting = slices.DeleteFunc(e.waiting, func(other *waiter) bool { return other == w })
		if e.known[s.Netns] == w {
			delete(e.known, s.Netns)
		}
	}
}

// Cookie is what tells the network namespace at path from all others; 0 on kernels
// without it (before 5.14).
func Cookie(path string) (cookie uint64, err error) {
	ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = unix.Close(ns) }()
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: ns})
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) { cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE) })
	if errors.Is(err, unix.ENOPROTOOPT) {
		return 0, ctlErr
	}
	return cookie, errors.Join(ctlErr, err)
}

// newsTime is what those who waited for a replica have before the news of it goes
// round. The work that follows from it, in all of the agent, takes as long; where
// processors are few they, and the replica itself, would get their turn after it.
const newsTime = 5 * time.Millisecond

// probeSlow is the time between two looks where events say when to: for what a
// full buffer of events lost, and the words of the reason.
const probeSlow = 250 * time.Millisecond
