// SPDX-License-Identifier: Apache-2.0

// Package handover is the conversation by which an agent gives its place to a
// successor: messages over a Unix socket, with open sockets attached. It knows
// how to say things and who says them; what is said when, and what it means for
// an agent, is the agent's.
//
//	successor                     predecessor
//	hello            ──▶          checks who it is, stops owning
//	                 ◀── sockets  listening sockets, any number of times
//	                 ◀── yours    the locks; it goes on accepting, as things stand
//	ready            ──▶          everything is applied: the place is taken
//	                 ◀── draining it accepts no more; again whenever the number changes
//	stop             ──▶          drain in less time
//
// Either may say refuse, with a reason, and hang up. Until "ready" whoever hangs
// up leaves the place with the predecessor, if that lives.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Version of the conversation. Another one is refused.
const Version = 1

// Bounds of a message.
const (
	MaxMessage = 32 << 10 // bytes
	MaxFiles   = 64       // attached; the kernel takes 253 (SCM_MAX_FD)
)

// Kind says what a message means.
type Kind string

// The kinds.
const (
	Hello    Kind = "hello"
	Refuse   Kind = "refuse"
	Sockets  Kind = "sockets"
	Yours    Kind = "yours"
	Ready    Kind = "ready"
	Draining Kind = "draining"
	Stop     Kind = "stop"
)

// Message is one of the conversation.
type Message struct {
	Version int  `json:"version"`
	Kind    Kind `json:"kind"`

	Program  string `json:"program,omitempty"`  // hello: version of the program
	StateDir string `json:"stateDir,omitempty"` // hello
	NetNS    string `json:"netns,omitempty"`    // hello: see NetNS

	Names    []string `json:"names,omitempty"`    // sockets, yours: of the attached files, in their order
	Troubled []string `json:"troubled,omitempty"` // yours: targets that were not at the newest state

	Reason      string        `json:"reason,omitempty"`      // refuse: for a person
	Connections int           `json:"connections,omitempty"` // draining: still open
	Until       time.Time     `json:"until,omitzero"`        // draining: when they will be cut
	Budget      time.Duration `json:"budget,omitempty"`      // stop: nanoseconds
}

// RefusedError is the other side's refusal.
type RefusedError struct{ Reason string }

// Error is the reason.
func (e *RefusedError) Error() string { return e.Reason }

// Conn is one conversation. Send and Receive may be called at the same time,
// each by one goroutine.
type Conn struct {
	c    *net.UnixConn
	peer *Process

	mu          sync.Mutex // of the time a Receive has
	interrupted bool
}

// newConn checks that the other end is a process of the same user.
func newConn(c *net.UnixConn) (*Conn, error) {
	p, uid, err := peerOf(c)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	if uid != os.Geteuid() {
		p.close()
		_ = c.Close()
		return nil, fmt.Errorf("process %d is of user %d, want %d", p.PID, uid, os.Geteuid())
	}
	return &Conn{c: c, peer: p}, nil
}

// Dial begins a conversation with the agent that listens on the path.
func Dial(path string, timeout time.Duration) (*Conn, error) {
	d := net.Dialer{Timeout: timeout}
	c, err := d.Dial("unixpacket", path)
	if err != nil {
		return nil, err
	}
	return newConn(c.(*net.UnixConn))
}

// Adopt goes on with a conversation that another process began, from its
// socket. The caller keeps f. The peer is whoever listened or connected then.
func Adopt(f *os.File) (*Conn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("take conversation over: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("take conversation over: not a Unix socket")
	}
	return newConn(u)
}

// Peer is the process at the other end; valid until Close.
func (c *Conn) Peer() *Process { return c.peer }

// Close hangs up.
func (c *Conn) Close() error {
	c.peer.close()
	return c.c.Close()
}

// Interrupt ends the Receive under way, and every later one, by
// os.ErrDeadlineExceeded.
func (c *Conn) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = true
	_ = c.c.SetReadDeadline(time.Unix(1, 0))
}

// Resume takes an Interrupt back.
func (c *Conn) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = false
	_ = c.c.SetReadDeadline(time.Time{})
}

// await has the next wait end in time; one that is interrupted has ended.
func (c *Conn) await(within time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if within == 0 || c.interrupted {
		return nil
	}
	return c.c.SetReadDeadline(time.Now().Add(within))
}

// File is a copy of the socket, for Adopt in another process. The caller closes
// it.
func (c *Conn) File() (*os.File, error) { return Dup(c.c) }

// Send sends a message with files within the time. The files stay the caller's.
func (c *Conn) Send(m Message, within time.Duration, files ...*os.File) error {
	m.Version = Version
	b, err := json.Marshal(m)
	switch {
	case err != nil:
		return fmt.Errorf("send %s: %w", m.Kind, err)
	case len(b) > MaxMessage || len(files) > MaxFiles:
		return fmt.Errorf("send %s: %d bytes and %d files, a message has at most %d and %d", m.Kind, len(b), len(files), MaxMessage, MaxFiles)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn() // Fd would have the sockets block
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds[i] = int(fd) })
		}
		if err != nil {
			return fmt.Errorf("send %s: %w", m.Kind, err)
		}
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := c.c.SetWriteDeadline(time.Now().Add(within)); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	if _, _, err := c.c.WriteMsgUnix(b, rights, nil); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// Receive waits for the next message; 0: for as long as it takes, or until the
// end of the last wait that had one, unless Resume was called since. The files are
// the caller's to close. The error is io.EOF when the other side hung up, a
// *RefusedError when it refused, os.ErrDeadlineExceeded when it says nothing.
func (c *Conn) Receive(within time.Duration) (m Message, files []*os.File, err error) {
	if err := c.await(within); err != nil {
		return m, nil, err
	}
	b, rights := make([]byte, MaxMessage+1), make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, k, flags, _, err := c.c.ReadMsgUnix(b, rights)
	if files = filesOf(rights[:k]); err == nil {
		m, err = parse(b[:n], flags)
	}
	if err == nil && len(m.Names) != len(files) {
		err = fmt.Errorf("%s: %d files with %d names", m.Kind, len(files), len(m.Names))
	}
	if err == nil && m.Kind == Refuse {
		err = &RefusedError{m.Reason}
	}
	if err != nil {
		CloseFiles(files)
		return Message{}, nil, err
	}
	return m, files, nil
}

// parse reads one message.
func parse(b []byte, flags int) (m Message, err error) {
	switch {
	case len(b) == 0:
		return m, io.EOF
	case len(b) > MaxMessage || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return m, fmt.Errorf("a message of more than %d bytes or %d files", MaxMessage, MaxFiles)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read message: %w", err)
	}
	if m.Version != Version {
		return m, fmt.Errorf("it speaks version %d of the handover, this is version %d", m.Version, Version)
	}
	return m, nil
}

// filesOf opens what came attached.
func filesOf(rights []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files
}

// CloseFiles closes files that nobody wants.
func CloseFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
