// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/cilium/ebpf/link"
)

// Listen leads connections and datagrams to services that may sleep
// (Service.Wakes), on whatever address and port, to sockets of this network
// namespace: listeners of TCP and unconnected sockets of UDP, for IPv4 and for
// IPv6; nil is none. It does so until the closer is closed or the process ends:
// nothing of it is pinned, and the sockets are the caller's.
func (o *Objects) Listen(tcp, udp [2]syscall.Conn) (io.Closer, error) {
	for i, s := range []syscall.Conn{tcp[0], tcp[1], udp[0], udp[1]} { // as in bpf/listen.c
		if s == nil {
			continue
		}
		raw, err := s.SyscallConn()
		if err != nil {
			return nil, fmt.Errorf("lead connections to a socket: %w", err)
		}
		var put error
		err = raw.Control(func(fd uintptr) { put = o.maps[listenMapFlListeners].Put(uint32(i), uint64(fd)) })
		if err = errors.Join(err, put); err != nil {
			return nil, fmt.Errorf("lead connections to a socket: %w", err)
		}
	}
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	l, err := link.AttachNetNs(int(ns.Fd()), o.progs[listenProgFlListen])
	if err != nil {
		return nil, fmt.Errorf("attach to the choice of listeners (sk_lookup): %w", err)
	}
	return l, nil
}
