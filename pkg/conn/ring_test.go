// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/feature"
)

// ringHere is a ring, where the kernel has one to give.
func ringHere(t *testing.T) *ring {
	t.Helper()
	r, err := newRing()
	if errors.Is(err, unix.EPERM) {
		t.Skipf("io_uring is forbidden here: %v", err)
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		feature.Lacks(t, "io_uring with IORING_SETUP_SUBMIT_ALL", 5, 18)
	}
	must(t, err)
	t.Cleanup(r.close)
	return r
}

// Each send has the result that send(2) would have: all, a part, nothing for
// now, an error. None of them makes the others wait or fail.
func TestRing(t *testing.T) {
	r := ringHere(t)
	client, a := pair(t)
	_, full := pair(t)
	gone, reset := pair(t)
	must(t, full.SetWriteBuffer(4096))
	must(t, gone.SetLinger(0))
	must(t, gone.Close())
	fdA, err := detach(a)
	must(t, err)
	fdFull, err := detach(full)
	must(t, err)
	fdReset, err := detach(reset)
	must(t, err)
	for _, fd := range []int{fdA, fdFull, fdReset} {
		defer unix.Close(fd)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) { // the RST comes by itself
		if _, err := recv(fdReset, make([]byte, 1)); errors.Is(err, unix.ECONNRESET) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no reset came")
		}
	}
	big := make([]byte, 16<<20)
	for round := range 3 * ringSize { // the queues wrap around
		message := bytes.Repeat([]byte{byte(round)}, 100)
		r.send(fdReset, message)
		r.send(fdFull, big)
		r.send(fdFull, message)
		r.send(fdA, message)
		results, err := r.submit()
		must(t, err)
		if len(results) != 4 || results[0] != -int32(unix.EPIPE) || results[3] != 100 {
			t.Fatalf("round %d: %d", round, results)
		}
		// The kernel's account of room is not exact: a little may fit after the part.
		if part := results[1]; round == 0 && (part <= 0 || int(part) >= len(big)) || round > 1 && (part != -int32(unix.EAGAIN) || results[2] != -int32(unix.EAGAIN)) {
			t.Fatalf("round %d: %d of %d bytes fit", round, results[1:3], len(big))
		}
		got := make([]byte, 100)
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, message) {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	for range ringSize { // as many as there may be
		r.send(fdA, []byte("x"))
	}
	results, err := r.submit()
	must(t, err)
	if len(results) != ringSize {
		t.Errorf("%d results", len(results))
	}
	if _, err := io.ReadFull(client, make([]byte, ringSize)); err != nil {
		t.Error(err)
	}
}

// A ring that the kernel refuses any more is left: sends go one by one.
func TestRingLost(t *testing.T) {
	s := newSends(true)
	s.ring = ringHere(t)
	must(t, unix.Close(s.ring.fd))
	s.ring.fd = -1
	defer s.close()
	clients := [2]*net.TCPConn{}
	for i := range clients {
		client, a := pair(t)
		fd, err := detach(a)
		must(t, err)
		defer unix.Close(fd)
		f := &Flow{fd: [2]int32{-1, int32(fd)}}
		copy(s.room(), "hello")
		s.put(f, 0, 5)
		clients[i] = client
	}
	s.carry()
	if s.ring != nil {
		t.Error("the ring is still used")
	}
	for i, c := range clients {
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" || s.queue[i].sent != 5 {
			t.Errorf("%q, %v, %+v", b, err, s.queue[i])
		}
	}
}
