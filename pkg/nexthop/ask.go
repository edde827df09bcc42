// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// asker puts many questions to rtnetlink at once. The kernel answers each while
// it is sent, so that all answers wait when the system call returns. Safe for
// concurrent use.
type asker struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	out []byte
	in  []byte
}

// question is the head and the body of a request for one object.
type question struct {
	kind uint16 // RTM_GET*
	data []byte
}

// answer is what the kernel says to a question: an error, or an object.
type answer struct {
	data []byte // valid until the next question
	err  error
}

// asksAtOnce bounds the answers that wait: a socket's buffer holds some
// hundred.
const asksAtOnce = 64

// maxAnswer is more than one object takes (NLMSG_GOODSIZE).
const maxAnswer = 16 << 10

func openAsker() (*asker, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("bind rtnetlink socket: %w", err)
	}
	return &asker{fd: fd, in: make([]byte, maxAnswer)}, nil
}

func (a *asker) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	_ = unix.Close(a.fd)
	a.fd = -1
}

// ask puts n questions and calls got with the answer to each, in any order. An
// error means that some got none.
func (a *asker) ask(n int, put func(i int) question, got func(i int, is answer)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for first := 0; first < n; first += asksAtOnce {
		some := min(asksAtOnce, n-first)
		err := a.some(some, func(i int) question { return put(first + i) }, func(i int, is answer) { got(first+i, is) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *asker) some(n int, put func(i int) question, got func(i int, is answer)) error {
	first := a.seq
	a.seq += uint32(n)
	a.out = a.out[:0]
	for i := range n {
		q := put(i)
		a.out = appendMessage(a.out, q, first+uint32(i))
	}
	if _, err := unix.Write(a.fd, a.out); err != nil {
		return fmt.Errorf("ask rtnetlink: %w", err)
	}
	for left := n; left > 0; {
		size, err := unix.Read(a.fd, a.in)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read answers of rtnetlink: %w", err)
		}
		for m := range messages(a.in[:size]) {
			// Those of an earlier call that failed may still be there.
			if i := m.seq - first; i < uint32(n) {
				got(int(i), m.answer())
				left--
			}
		}
	}
	return nil
}

// appendMessage adds a request.
func appendMessage(b []byte, q question, seq uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(q.data)))
	b = binary.NativeEndian.AppendUint16(b, q.kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, q.data...)
	return slices.Grow(b, unix.NLMSG_ALIGNTO)[:(len(b)+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)]
}

// message is one of netlink, without its header.
type message struct {
	kind uint16
	seq  uint32
	data []byte
}

func (m message) answer() answer {
	is := answer{data: m.data}
	if m.kind == unix.NLMSG_ERROR && len(m.data) >= 4 {
		is.err = unix.Errno(-int32(binary.NativeEndian.Uint32(m.data)))
	}
	return is
}

// messages walks those in a datagram.
func messages(b []byte) func(yield func(message) bool) {
	return func(yield func(message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return
			}
			m := message{
				kind: binary.NativeEndian.Uint16(b[4:]), seq: binary.NativeEndian.Uint32(b[8:]), data: b[unix.SizeofNlMsghdr:size],
			}
			if !yield(m) {
				return
			}
			b = b[min(len(b), (size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
		}
	}
}
