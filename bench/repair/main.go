// SPDX-License-Identifier: Apache-2.0

// Repair measures what docs/design/0005-handover.md argues with: whether, how
// fast and how often two joined sockets can be taken out of the kernel by
// TCP_REPAIR, so that a data plane could carry their packets on. It carries
// none: the connections end with it. It uses loopback and needs root.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	rounds := flag.Int("rounds", 300, "connections of each kind")
	flag.Parse()
	for _, think := range []time.Duration{0, 100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond} {
		if err := measure(*rounds, think); err != nil {
			fmt.Fprintln(os.Stderr, "repair:", err)
			os.Exit(1)
		}
	}
}

// tally is what became of the connections of one kind.
type tally struct {
	quiet   int // a moment without bytes in flight was found
	moved   int // bytes came while the state was read: they would be lost or be sent again
	silent  int // the peers noticed nothing of the sockets' end
	asked   []time.Duration
	retired []time.Duration
}

// measure joins a client that asks, thinks and asks again with a server, lets
// them talk, and then retires the two sockets between them.
func measure(rounds int, think time.Duration) error {
	var t tally
	for range rounds {
		if err := t.one(think); err != nil {
			return err
		}
	}
	slices.Sort(t.asked)
	slices.Sort(t.retired)
	p := func(d []time.Duration, q int) time.Duration {
		if len(d) == 0 {
			return 0
		}
		return d[len(d)*q/100]
	}
	fmt.Printf("think %6s: quiet moment found %d of %d (p50 %s, p99 %s); retired in p50 %s, p99 %s; bytes came meanwhile %d; peers noticed nothing %d\n",
		think, t.quiet, rounds, p(t.asked, 50), p(t.asked, 99), p(t.retired, 50), p(t.retired, 99), t.moved, t.silent)
	return nil
}

func (t *tally) one(think time.Duration) error {
	client, a, err := pair()
	if err != nil {
		return err
	}
	server, b, err := pair()
	if err != nil {
		return err
	}
	for _, c := range []*net.TCPConn{client, server, a, b} {
		defer c.Close()
	}
	go func() { _, _ = io.Copy(struct{ io.Writer }{server}, server) }()
	go forward(a, b)
	go forward(b, a)
	talked := make(chan error, 1)
	go func() { talked <- talk(client, think) }()
	time.Sleep(5 * time.Millisecond)

	rawA, errA := a.SyscallConn()
	rawB, errB := b.SyscallConn()
	if errA != nil || errB != nil {
		return fmt.Errorf("%w, %w", errA, errB)
	}
	var fds [2]int
	_ = rawA.Control(func(fd uintptr) { fds[0], err = unix.Dup(int(fd)) })
	_ = rawB.Control(func(fd uintptr) { fds[1], err = unix.Dup(int(fd)) })
	begun := time.Now()
	for !(idle(fds[0]) && idle(fds[1])) {
		if time.Since(begun) > 200*time.Millisecond {
			_ = unix.Close(fds[0])
			_ = unix.Close(fds[1])
			return nil // always something in flight
		}
	}
	t.quiet++
	t.asked = append(t.asked, time.Since(begun))
	begun = time.Now()
	var before [2][2]int
	for i, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return fmt.Errorf("TCP_REPAIR: %w", err)
		}
		if before[i], err = sequences(fd); err != nil {
			return err
		}
	}
	for i, fd := range fds {
		after, err := sequences(fd)
		if err != nil {
			return err
		}
		if after != before[i] || !idle(fd) {
			t.moved++
			break
		}
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	_ = a.Close()
	_ = b.Close()
	t.retired = append(t.retired, time.Since(begun))
	select {
	case <-talked: // its next word met a reset, or an end
	case <-time.After(3 * time.Millisecond):
		t.silent++
	}
	return nil
}

// sequences are the next numbers of both queues.
func sequences(fd int) (seqs [2]int, err error) {
	for i, queue := range []int{1, 2} { // TCP_RECV_QUEUE, TCP_SEND_QUEUE
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_QUEUE, queue); err != nil {
			return seqs, fmt.Errorf("TCP_REPAIR_QUEUE: %w", err)
		}
		if seqs[i], err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ); err != nil {
			return seqs, fmt.Errorf("TCP_QUEUE_SEQ: %w", err)
		}
	}
	return seqs, nil
}

// idle tells that a socket holds nothing: nothing unread, nothing unacknowledged.
func idle(fd int) bool {
	out, err1 := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	in, err2 := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err1 == nil && err2 == nil && out == 0 && in == 0
}

func talk(c net.Conn, think time.Duration) error {
	b := make([]byte, 100)
	for {
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		time.Sleep(think)
	}
}

func forward(to, from net.Conn) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func pair() (near, far *net.TCPConn, err error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	far, err = l.AcceptTCP()
	return c.(*net.TCPConn), far, err
}
