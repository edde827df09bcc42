// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"fmt"
	"net"
	"os"
	"syscall"
)

// Sockets keeps listening sockets for a successor of this process, so that
// connections wait in the kernel and are not refused.
type Sockets interface {
	// Take is the socket that a predecessor left under a name; nil: there is
	// none. The caller closes it.
	Take(name string) *os.File
	// Keep notes an open socket under a name, in place of the one before.
	Keep(name string, socket syscall.Conn)
	// Drop has the socket of a name end with this process.
	Drop(name string)
}

// Inherit is a predecessor's listener of a name; nil: there is none. s may be
// nil.
func Inherit(s Sockets, name string) (*net.TCPListener, error) {
	if s == nil {
		return nil, nil
	}
	f := s.Take(name)
	if f == nil {
		return nil, nil
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take the predecessor's socket over: %w", err)
	}
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("take the predecessor's socket %q over: it is not of TCP", name)
	}
	return tcp, nil
}
