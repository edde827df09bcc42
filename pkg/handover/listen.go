// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

// Listener waits for successors.
type Listener struct{ l *net.UnixListener }

// Listen opens the path with mode 0600, in place of what a predecessor left
// there. Only the owner of the run directory's lock may call it. The path stays
// when the listener is closed: by then it may be a successor's.
func Listen(path string) (*Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("wait for successors: %w", err)
	}
	// The mode is set before bind: at no moment may others connect.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		if err := c.Control(func(fd uintptr) { chmod = syscall.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return chmod
	}}
	l, err := lc.Listen(context.Background(), "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("wait for successors at %s: %w", path, err)
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	return &Listener{u}, nil
}

// Accept waits for the next one. After Close the error is net.ErrClosed; every
// other one concerns a single caller.
func (l *Listener) Accept() (*Conn, error) {
	c, err := l.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return newConn(c)
}

// Close ends Accept.
func (l *Listener) Close() error { return l.l.Close() }
