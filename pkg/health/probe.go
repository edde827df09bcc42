// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	// most bounds an answer's header, and what is read of its body.
	most = 64 << 10
	// rest bounds the time spent on a body whose status has decided already.
	rest = 100 * time.Millisecond
	// interim bounds the 1xx answers before the one that counts.
	interim = 5
)

// errTooLong is an answer whose header does not end within most bytes.
var errTooLong = errors.New("header longer than 64 KiB")

// readers are kept from check to check: at thousands a second their buffers
// would be most of the garbage.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// stage tells how far a failed check came.
type stage struct {
	asked bool // connected, and sent the request
	err   error
}

func (s *stage) Error() string { return s.err.Error() }
func (s *stage) Unwrap() error { return s.err }

// status is an answer with a code that the check does not accept.
type status int

func (s status) Error() string { return fmt.Sprintf("status %d", int(s)) }

// probe checks once; ctx ends with the timeout. A TCP check connects and
// closes in order (FIN, not RST) without a byte sent: it proves that something
// listens and its queue has room, not that a process answers, which is what an
// HTTP check is for.
func (c *Checker) probe(ctx context.Context, to netip.AddrPort, q *question) error {
	conn, err := c.cfg.Dial(ctx, to)
	if err != nil {
		return &stage{err: err}
	}
	defer conn.Close()
	if q.Type != "http" {
		return nil
	}
	if err := ask(ctx, conn, to, q); err != nil {
		return &stage{asked: true, err: err}
	}
	return nil
}

// ask sends one request and judges the answer by its status. Redirects are not
// followed. The body decides nothing; some of it is read so that the replica
// may end in order, and one that never ends is cut off.
func ask(ctx context.Context, conn net.Conn, to netip.AddrPort, q *question) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // forgotten or stopped
	defer stop()
	if _, err := conn.Write(q.request(to)); err != nil {
		return err
	}
	limited := &io.LimitedReader{R: conn, N: most}
	r := readers.Get().(*bufio.Reader)
	r.Reset(limited)
	defer func() { r.Reset(nil); readers.Put(r) }()
	resp, err := answer(r)
	if err != nil {
		if limited.N <= 0 {
			return errTooLong
		}
		return err
	}
	if !q.accepts(resp.StatusCode) {
		err = status(resp.StatusCode)
	}
	if resp.Body != http.NoBody && ctx.Err() == nil {
		if soon := time.Now().Add(rest); soon.Before(deadlineOf(ctx)) {
			_ = conn.SetDeadline(soon)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	return err
}

// answer reads the first answer that is not an interim one (RFC 9110, 15.2).
func answer(r *bufio.Reader) (*http.Response, error) {
	for range interim {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, nil
		}
	}
	return nil, fmt.Errorf("more than %d interim answers", interim)
}

func deadlineOf(ctx context.Context) time.Time {
	t, _ := ctx.Deadline()
	return t
}

// isLocal tells whether a check failed for want of something on this host, so
// that it says nothing about the replica.
func isLocal(err error) bool {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	switch e {
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EADDRINUSE:
		return true
	}
	return false
}
