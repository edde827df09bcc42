// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"net/netip"
	"slices"
	"sync"
	"time"

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

// joined are the connections that were led to a replica and are open, and the
// bytes of those that have ended.
type joined struct {
	mu      sync.Mutex
	open    map[*Connection]struct{}
	in, out uint64
}

// begin notes a connection; end is to be called once it is over, with the bytes
// that it moved.
func (j *joined) begin(name model.ServiceName, h held) (end func(in, out int64)) {
	c := h.connection(name)
	c.Joined = true
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.open == nil {
		j.open = map[*Connection]struct{}{}
	}
	j.open[&c] = struct{}{}
	return func(in, out int64) {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.open, &c)
		j.in += uint64(max(in, 0))
		j.out += uint64(max(out, 0))
	}
}

func (h held) connection(name model.ServiceName) Connection {
	return Connection{Service: name, Client: h.Peer, Port: h.Local.Port(), Since: h.since}
}

// Connections lists those that wait or are joined, the oldest first.
func (t *Target) Connections() []Connection {
	var out []Connection
	t.lines.each(func(name model.ServiceName, h held) { out = append(out, h.connection(name)) })
	t.joined.mu.Lock()
	for c := range t.joined.open {
		out = append(out, *c)
	}
	t.joined.mu.Unlock()
	slices.SortFunc(out, func(a, b Connection) int { return a.Since.Compare(b.Since) })
	return out
}
