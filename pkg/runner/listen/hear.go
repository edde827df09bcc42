// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"io"
	"os"
	"sync"
	"time"
)

// Watch calls back after every listen() in a cgroup2 directory and below,
// until it is closed.
type Watch func(cgroup string, notify func()) (io.Closer, error)

// Ear has replicas that start looked at as soon as one of them listens. The
// zero Ear is deaf: they are looked at again and again.
type Ear struct {
	mu    sync.Mutex
	heard chan struct{} // closed and replaced when some replica listens; nil: nobody tells
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
	e.set(make(chan struct{}))
	c, err := watch(dir, e.notify)
	if err != nil {
		e.set(nil)
		return func() {}, err
	}
	return func() { _ = c.Close() }, nil
}

func (e *Ear) set(heard chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = heard
}

// notify has every replica that starts looked at: which one it was nobody
// says, and a look costs little.
func (e *Ear) notify() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heard != nil {
		close(e.heard)
		e.heard = make(chan struct{})
	}
}

// next is closed at the next listen; nil: nobody tells.
func (e *Ear) next() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard
}

// probeSlow is the time between two looks where events say when to: for what
// no event tells, such as UDP sockets, and the words of the reason.
const probeSlow = 250 * time.Millisecond
