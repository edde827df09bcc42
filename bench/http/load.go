// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// head is what a browser sends.
const head = "GET /catalog/items/4711?sort=price&page=2 HTTP/1.1\r\nHost: " + hostName + "\r\nConnection: keep-alive\r\n" +
	"sec-ch-ua: \"Chromium\";v=\"128\", \"Not;A=Brand\";v=\"24\", \"Google Chrome\";v=\"128\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n" +
	"Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\n" +
	"Sec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\nReferer: https://shop.example.com/catalog\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\nCookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=yes\r\n\r\n"

// order is what a client process is told to do.
type order struct {
	Addr       string
	Conns      int
	Handshakes bool // TLS handshakes in place of requests
	For        time.Duration
}

// result is what it did.
type result struct {
	Done, Failed uint64
	Median, P99  time.Duration
}

func (o order) run() (result, error) {
	if o.Handshakes {
		return o.handshakes()
	}
	return o.requests()
}

// handshakes makes TLS connections one after the other.
func (o order) handshakes() (r result, err error) {
	cfg := &tls.Config{ServerName: hostName, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}, MinVersion: tls.VersionTLS13}
	for start := time.Now(); time.Since(start) < o.For; {
		c, err := tls.Dial("tcp", o.Addr, cfg)
		if err != nil {
			return r, err
		}
		_ = c.NetConn().Close()
		r.Done++
	}
	return r, nil
}

// asker is one connection of the closed loop.
type asker struct {
	fd    int32
	in    []byte
	since time.Time
}

// requests runs the closed loop on one thread.
func (o order) requests() (r result, err error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return r, err
	}
	conns := map[int32]*asker{}
	to := netip.MustParseAddrPort(o.Addr)
	for range o.Conns {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return r, err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
			return r, err
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		_ = unix.SetNonblock(fd, true)
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return r, err
		}
		conns[int32(fd)] = &asker{fd: int32(fd), in: make([]byte, 0, 8192)}
	}
	var took []time.Duration
	request := []byte(head)
	ask := func(a *asker) error {
		a.in, a.since = a.in[:0], time.Now()
		_, err := unix.Write(int(a.fd), request)
		return err
	}
	for _, a := range conns {
		if err := ask(a); err != nil {
			return r, err
		}
	}
	events := make([]unix.EpollEvent, 128)
	for start := time.Now(); time.Since(start) < o.For; {
		n, err := unix.EpollWait(ep, events, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return r, err
		}
		for _, e := range events[:max(n, 0)] {
			a := conns[e.Fd]
			n, err := unix.Read(int(a.fd), a.in[len(a.in):cap(a.in)])
			if err != nil || n == 0 {
				return r, fmt.Errorf("read: %d, %w", n, err)
			}
			a.in = a.in[:len(a.in)+n]
			whole, err := answered(a.in)
			if err != nil {
				return r, err
			}
			if whole {
				r.Done++
				took = append(took, time.Since(a.since))
				if err := ask(a); err != nil {
					return r, err
				}
			}
		}
	}
	slices.Sort(took)
	if len(took) > 0 {
		r.Median, r.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return r, nil
}

// answered tells whether b is a whole answer of 200.
func answered(b []byte) (bool, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return false, nil
	}
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 200")) {
		return false, fmt.Errorf("answer %q", b[:end])
	}
	i := bytes.Index(b[:end+2], lengthName)
	if i < 0 {
		if i = bytes.Index(b[:end+2], lengthLower); i < 0 {
			return false, fmt.Errorf("no length in %q", b[:end])
		}
	}
	i += len(lengthName)
	n, err := strconv.Atoi(string(b[i : i+bytes.IndexByte(b[i:], '\r')]))
	return len(b) >= end+4+n, err
}

var (
	lengthName  = []byte("Content-Length: ")
	lengthLower = []byte("content-length: ")
)

// answer is what the replica says: 1 KiB.
var answer = []byte("HTTP/1.1 200 OK\r\nServer: replica\r\nDate: Sat, 21 Nov 2026 23:00:00 GMT\r\nContent-Type: text/html; charset=utf-8\r\n" +
	"Cache-Control: max-age=60\r\nETag: \"33a64df5\"\r\nVary: Accept-Encoding\r\nContent-Length: 1024\r\n\r\n" + string(bytes.Repeat([]byte("0123456789abcdef"), 64)))

// playReplica answers every head, on one thread, until the process is killed.
func playReplica() error {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	at := netip.MustParseAddrPort(replicaAddr)
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_ = unix.SetsockoptInt(l, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(l, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		return err
	}
	if err := unix.Listen(l, 4096); err != nil {
		return err
	}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, l, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l)}); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 128)
	b := make([]byte, 8192)
	for {
		n, err := unix.EpollWait(ep, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == l {
				if fd, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); err == nil {
					_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
					_ = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
				}
				continue
			}
			// Heads of this bench fit into a segment of loopback.
			if n, err := unix.Read(int(e.Fd), b); err != nil || n <= 0 {
				_ = unix.Close(int(e.Fd))
			} else if bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
				_, _ = unix.Write(int(e.Fd), answer)
			}
		}
	}
}
