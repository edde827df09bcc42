// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/http1"
)

// upload is the rest of a request's body on its way to the replica, in a
// goroutine of its own, as the answer may begin before it ends.
type upload struct {
	s      *session
	up     *upstream
	framed bool // by chunks
	chunks http1.Chunked
	left   int64 // without chunks
	watch  watch
	done   chan struct{}
	ended  atomic.Bool // all of it is with the replica

	mu       sync.Mutex
	answered bool        // the answer has begun: nobody waits for that any more
	stop     atomic.Bool // it was given up
	err      error
	ahead    []byte // what the client sent after the body
}

var errStopped = errors.New("the rest of the request is not needed")

// bodyError says that the client's body is refused.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// clientFault tells that the upload ended because of the client.
func (u *upload) clientFault() bool {
	var bad *bodyError
	return errors.Is(u.err, errClient) || errors.As(u.err, &bad)
}

// startUpload begins to bring the rest.
func (x *exchange) startUpload() {
	s := x.s
	u := &upload{
		s: s, up: x.up, framed: s.req.Chunked, chunks: x.chunks, left: s.req.ContentLength - int64(len(x.have)), done: make(chan struct{}),
	}
	u.watch.expire = u.expire
	x.upload = u
	go u.run()
}

// uploaded tells whether all of the request is with the replica.
func (x *exchange) uploaded() bool {
	return x.whole || x.upload != nil && x.upload.ended.Load()
}

func (u *upload) run() {
	defer close(u.done)
	shard := u.s.t.clock.add(&u.watch)
	defer shard.remove(&u.watch)
	if u.err = u.copy(); u.err == nil {
		u.ended.Store(true)
	}
	if u.clientFault() {
		u.up.interrupt()
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.answered { // from now on it is the replica that is waited for
		u.s.watch.arm(u.s.t.clock, onReplica, u.s.t.cfg.Limits.Answer)
	}
}

func (u *upload) expire(p phase) {
	if p == onReplica {
		u.up.interrupt()
	} else {
		u.s.sock.interrupt()
	}
}

// hasAnswer takes the limit off that the end of the upload sets, and tells
// whether it had not expired yet.
func (u *upload) hasAnswer() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answered = true
	return u.s.watch.disarm()
}

func (u *upload) copy() error {
	var held *buffer
	for {
		u.watch.arm(u.s.t.clock, onClient, u.s.t.cfg.Limits.Stall)
		b, n, err := u.s.sock.readPooled(held)
		if !u.watch.disarm() || err != nil {
			if b != nil {
				returnBuffer(b)
			}
			if u.stop.Load() {
				return errStopped
			}
			return errClient
		}
		held = b
		pass, read, tail, done, err := u.take(b.b[:n])
		if err != nil {
			returnBuffer(b)
			return &bodyError{err}
		}
		if done && read < n {
			u.ahead = bytes.Clone(b.b[read:n])
		}
		u.watch.arm(u.s.t.clock, onReplica, u.s.t.cfg.Limits.Stall)
		if err = u.up.write(b.b[:pass]); err == nil {
			err = u.up.write(tail)
		}
		if !u.watch.disarm() {
			err = errTooSlow
		}
		if err != nil || done {
			returnBuffer(b)
			return err
		}
	}
}

func (u *upload) take(b []byte) (pass, read int, tail []byte, done bool, err error) {
	if u.framed {
		pass, read, tail, err = u.chunks.Next(b)
		return pass, read, tail, u.chunks.Done(), err
	}
	pass = int(min(u.left, int64(len(b))))
	u.left -= int64(pass)
	return pass, pass, nil, u.left == 0, nil
}

// finish ends the upload, as the answer is over, and tells whether it brought
// everything. What the replica has read whole may just be ending.
func (u *upload) finish(patient bool) bool {
	if patient {
		select {
		case <-u.done:
		case <-time.After(endTime):
		}
	}
	if !u.ended.Load() {
		u.stop.Store(true)
		u.up.interrupt()
		u.s.sock.interrupt()
	}
	<-u.done
	return u.ended.Load() && !u.stop.Load()
}

const endTime = 50 * time.Millisecond

// abort ends the upload after the answer failed, and says whose fault that was.
func (u *upload) abort(err error) error {
	u.stop.Store(true)
	u.up.interrupt()
	u.s.sock.interrupt()
	<-u.done
	if u.clientFault() {
		err = u.err
	}
	_ = u.s.sock.tcp.SetDeadline(time.Time{}) // it gets an answer of ours
	return err
}
