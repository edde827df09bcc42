// SPDX-License-Identifier: Apache-2.0

package load

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// client is a running loop of requests.
type client struct {
	Requests
	poll   *poller
	conns  map[int32]*conn
	out    [RequestSize]byte
	in     [AnswerSize]byte
	took   []time.Duration
	result Result
}

type conn struct {
	fd      int
	got     int // bytes of the answer
	waiting bool
	since   time.Time
}

// Run runs the loop to its end.
func (r Requests) Run() (Result, error) {
	poll, err := newPoller()
	if err != nil {
		return Result{}, err
	}
	c := &client{Requests: r, poll: poll, conns: map[int32]*conn{}}
	defer c.stop()
	for range r.Conns {
		if err := c.open(); err != nil {
			return Result{}, err
		}
	}
	start, cpu := time.Now(), CPU()
	for {
		events, err := poll.wait()
		if err != nil {
			return Result{}, err
		}
		for _, e := range events {
			if err := c.ready(e); err != nil {
				return Result{}, err
			}
		}
		if c.result.Elapsed = time.Since(start); c.result.Elapsed >= r.For {
			break
		}
	}
	c.result.CPU = CPU() - cpu
	if len(c.took) > 0 {
		slices.Sort(c.took)
		c.result.Median, c.result.P99 = c.took[len(c.took)/2], c.took[len(c.took)*99/100]
	}
	return c.result, nil
}

func (c *client) stop() {
	for _, k := range c.conns {
		_ = unix.Close(k.fd)
	}
	c.poll.close()
}

// open starts one more connection; edges tell when it is there and when an
// answer is.
func (c *client) open() error {
	family, sa := sockaddr(c.To)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	k := &conn{fd: fd}
	if c.Each {
		k.since = time.Now()
	}
	if err := unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return fmt.Errorf("connect to %s: %w", c.To, err)
	}
	c.conns[int32(fd)] = k
	return c.poll.add(fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET)
}

func (c *client) ready(e unix.EpollEvent) error {
	k := c.conns[e.Fd]
	if k == nil {
		return nil
	}
	if !k.waiting && e.Events&unix.EPOLLOUT != 0 && e.Events&(unix.EPOLLERR|unix.EPOLLHUP) == 0 {
		return c.ask(k)
	}
	n, err := read(k.fd, c.in[:])
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if err != nil || n == 0 {
		return c.failed(k)
	}
	if k.got += n; k.got < AnswerSize {
		return nil
	}
	c.result.Done++
	if c.Each {
		c.took = append(c.took, time.Since(k.since))
	}
	if !c.Close {
		return c.ask(k)
	}
	c.end(k)
	return c.open()
}

func (c *client) ask(k *conn) error {
	if !k.waiting && len(c.Prefix) > 0 {
		if _, err := write(k.fd, c.Prefix); err != nil {
			return c.failed(k)
		}
	}
	k.got, k.waiting = 0, true
	if c.Each && !c.Close {
		k.since = time.Now()
	}
	if _, err := write(k.fd, c.out[:]); err != nil {
		return c.failed(k)
	}
	return nil
}

func (c *client) end(k *conn) {
	delete(c.conns, int32(k.fd))
	_ = unix.Close(k.fd)
}

// failed gives a connection up and opens another; when nothing else happens
// any more the loop ends with an error.
func (c *client) failed(k *conn) error {
	c.end(k)
	if c.result.Failed++; c.result.Failed > 1000 && c.result.Failed > c.result.Done {
		return fmt.Errorf("request to %s: %d connections failed, %d were answered", c.To, c.result.Failed, c.result.Done)
	}
	return c.open()
}

// Datagrams sends UDP datagrams of 18 bytes (60 on the wire, the least there
// is) from several ports as fast as one thread can.
func Datagrams(to netip.AddrPort, ports int, d time.Duration) (Result, error) {
	family, sa := sockaddr(to)
	fds := make([]int, 0, ports)
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for range ports {
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return Result{}, fmt.Errorf("open socket: %w", err)
		}
		fds = append(fds, fd)
		if err := unix.Connect(fd, sa); err != nil {
			return Result{}, fmt.Errorf("connect to %s: %w", to, err)
		}
	}
	var (
		r       Result
		payload [18]byte
		start   = time.Now()
		cpu     = CPU()
	)
	for r.Elapsed < d {
		for range 64 {
			// Refused: an ICMP error of an earlier datagram. Full: it was not sent.
			if _, err := unix.Write(fds[r.Done%uint64(ports)], payload[:]); err != nil {
				r.Failed++
				continue
			}
			r.Done++
		}
		r.Elapsed = time.Since(start)
		if r.Failed > 1000 && r.Failed > r.Done {
			return r, fmt.Errorf("send to %s: %d datagrams failed, %d were sent", to, r.Failed, r.Done)
		}
	}
	r.CPU = CPU() - cpu
	return r, nil
}
