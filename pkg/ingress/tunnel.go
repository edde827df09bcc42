// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/http1"
)

// switched passes a 101 on and then all bytes, both ways, until both ends have
// ended theirs. There is no limit to silence (row L06).
func (x *exchange) switched(at, end int) (keep bool, err error) {
	s, r := x.s, &x.s.resp
	if !x.socket || !http1.EqualFold(r.Upgrade, "websocket") {
		return false, errUpgrade
	}
	s.watch.disarm()
	x.answered = true
	s.code = r.Status
	b := s.out.b[:]
	bodyAt := at + r.Len
	start := pack(b, at, r, lineUpgrade)
	t := &tunnel{s: s, up: x.up}
	t.toClient.follow(b[bodyAt:end])
	err = s.sock.write(b[start:end])
	if have := s.in.b[s.start:s.end]; err == nil && len(have) > 0 {
		t.toReplica.follow(have)
		err = x.up.write(have)
	}
	s.start, s.end = 0, 0
	s.setAside()
	returnBuffer(s.out)
	s.out = nil
	s.sent = int64(end - start)
	if err == nil {
		t.run()
	}
	s.up.Store(nil)
	x.up.close()
	s.finish(x.v.route, x.ep.key.addr, "")
	return false, nil
}

var lineUpgrade = []byte("Connection: Upgrade\r\nUpgrade: websocket\r\n")

// tunnel is an upgraded connection.
type tunnel struct {
	s  *session
	up *upstream

	mu                  sync.Mutex // held while a direction writes
	muBack              sync.Mutex
	toClient, toReplica frames
}

func (t *tunnel) run() {
	s := t.s
	s.tunnel.Store(t)
	s.mode.Store(modeTunnel)
	defer s.tunnel.Store(nil)
	var wg sync.WaitGroup
	wg.Go(func() { pump(&s.sock, &t.up.sock, &t.muBack, &t.toReplica, nil) })
	pump(&t.up.sock, &s.sock, &t.mu, &t.toClient, &s.sent)
	wg.Wait()
}

// pump copies one direction to its end and passes the end on. If it can not be
// written to, the other direction is over, too.
func pump(from, to *sock, mu *sync.Mutex, f *frames, sent *int64) {
	var held *buffer
	for {
		b, n, err := from.readPooled(held)
		if err != nil {
			to.closeWrite()
			return
		}
		held = b
		mu.Lock()
		f.follow(b.b[:n])
		err = to.write(b.b[:n])
		mu.Unlock()
		if err != nil {
			returnBuffer(held)
			from.interrupt()
			to.interrupt()
			return
		}
		if sent != nil {
			*sent += int64(n)
		}
	}
}

// Close frames with status 1001, going away (RFC 6455, 7.4.1); towards the
// replica they are masked, as a client's are.
var (
	goingAway       = []byte{0x88, 2, 0x03, 0xe9}
	goingAwayMasked = []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9}
)

// goAway tells both ends that the connection ends, where they are between two
// frames. It does not wait for either.
func (t *tunnel) goAway() {
	tell := func(to *sock, mu *sync.Mutex, f *frames, frame []byte) {
		if !mu.TryLock() {
			return // a write waits: nobody reads there
		}
		defer mu.Unlock()
		if f.between() {
			_ = to.tcp.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			_ = to.write(frame)
			f.closed = true
		}
	}
	tell(&t.s.sock, &t.mu, &t.toClient, goingAway)
	tell(&t.up.sock, &t.muBack, &t.toReplica, goingAwayMasked)
}

// frames follows where the frames of one direction end (RFC 6455, 5.2).
type frames struct {
	closed bool // a close frame has passed
	head   [10]byte
	n      int    // bytes of the head so far
	left   uint64 // of the payload, the mask included
}

func (f *frames) between() bool { return f.n == 0 && f.left == 0 && !f.closed }

func (f *frames) follow(b []byte) {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(b)))
			f.left -= n
			b = b[n:]
			continue
		}
		f.head[f.n] = b[0]
		f.n++
		b = b[1:]
		if f.n < 2 || f.n < f.need() {
			continue
		}
		for _, c := range f.payload() {
			f.left = f.left<<8 | uint64(c)
		}
		if f.head[1]&0x80 != 0 {
			f.left += 4
		}
		if f.head[0]&0x0f == 8 {
			f.closed = true
		}
		f.n = 0
	}
}

// need is the length of the head without the mask.
func (f *frames) need() int {
	switch f.head[1] & 0x7f {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// payload is the length of the payload, big endian.
func (f *frames) payload() []byte {
	if n := f.need(); n > 2 {
		return f.head[2:n]
	}
	return []byte{f.head[1] & 0x7f}
}
