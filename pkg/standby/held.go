// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Connection is one that this host accepted for a service that slept.
type Connection struct {
	Service model.ServiceName
	Client  netip.AddrPort
	Port    uint16 // that the client connected to
	Since   time.Time
	Joined  bool // with a replica; else it waits for one
}

// taken is a connection on its way.
type taken struct {
	Connection
	c *conn.Conn // while it waits; the Pump's afterwards
}

// begin notes a connection; end is to be called once it is over, with the bytes
// that it moved.
func (t *Target) begin(service model.ServiceName, c *conn.Conn) *taken {
	x := &taken{Connection{Service: service, Client: c.Peer, Port: c.Local.Port(), Since: time.Now()}, c}
	t.tmu.Lock()
	defer t.tmu.Unlock()
	if t.taken == nil {
		t.taken = map[*taken]struct{}{}
	}
	t.taken[x] = struct{}{}
	return x
}

func (t *Target) end(x *taken, sent, received int64) {
	t.sent.Add(uint64(max(sent, 0)))
	t.received.Add(uint64(max(received, 0)))
	t.tmu.Lock()
	defer t.tmu.Unlock()
	delete(t.taken, x)
}

func (t *Target) joined(x *taken) {
	t.tmu.Lock()
	x.Joined, x.c = true, nil
	t.tmu.Unlock()
	if t.cfg.Joined != nil {
		t.cfg.Joined(x.Service)
	}
}

// Connections lists those that wait or are joined, the oldest first.
func (t *Target) Connections() []Connection {
	t.tmu.Lock()
	defer t.tmu.Unlock()
	out := make([]Connection, 0, len(t.taken))
	for x := range t.taken {
		out = append(out, x.Connection)
	}
	slices.SortFunc(out, func(a, b Connection) int { return a.Since.Compare(b.Since) })
	return out
}

// waiting counts what those who wait have sent already, which the kernel keeps;
// nothing of it is read before there is a replica.
func (t *Target) waiting() (bytes uint64) {
	t.tmu.Lock()
	defer t.tmu.Unlock()
	for x := range t.taken {
		if x.c == nil {
			continue
		}
		raw, err := x.c.SyscallConn()
		if err != nil {
			continue
		}
		_ = raw.Control(func(fd uintptr) {
			if n, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ); err == nil {
				bytes += uint64(max(n, 0))
			}
		})
	}
	return bytes
}
