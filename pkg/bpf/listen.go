// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/cilium/ebpf/link"
)

// Listen leads connections to services that may sleep (Service.Wakes), on
// whatever address and port, to two listeners of this network namespace, one
// of each family; v6 may be nil. It does so until the closer is closed or the
// process ends: nothing of it is pinned, and the listeners are the caller's.
func (o *Objects) Listen(v4, v6 *net.TCPListener) (io.Closer, error) {
	for i, l := range []*net.TCPListener{v4, v6} {
		if l == nil {
			continue
		}
		raw, err := l.SyscallConn()
		if err != nil {
			return nil, fmt.Errorf("lead connections to %s: %w", l.Addr(), err)
		}
		var put error
		err = raw.Control(func(fd uintptr) { put = o.maps[listenMapFlListeners].Put(uint32(i), uint64(fd)) })
		if err = errors.Join(err, put); err != nil {
			return nil, fmt.Errorf("lead connections to %s: %w", l.Addr(), err)
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
