// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"net/netip"
	"sync"
	"time"
)

// Limits bound what a client may take. Zero fields have defaults.
type Limits struct {
	Headers        int           // header lines of a request; default 100
	Head           time.Duration // from the first byte of a head to its last, TLS handshake included; default 10 s
	Idle           time.Duration // between two requests of a connection; default 75 s
	Stall          time.Duration // without progress of a body or an answer on the client's side; default 60 s
	Answer         time.Duration // until a replica begins to answer; default 60 s
	Connect        time.Duration // until a replica accepts; default 3 s
	Patience       time.Duration // of a shutdown with idle connections, for their next request; default 5 s
	PerClient      int           // connections of an address (IPv6: of a /64); default 10 000
	Tick           time.Duration // precision of the above; default 250 ms
	Streams        int           // requests at a time on an HTTP/2 connection; default 250
	HeaderListSize int           // bytes of an HTTP/2 head; default 32 KiB
}

func (l *Limits) defaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&l.Head, 10*time.Second)
	set(&l.Idle, 75*time.Second)
	set(&l.Stall, time.Minute)
	set(&l.Answer, time.Minute)
	set(&l.Connect, 3*time.Second)
	set(&l.Patience, 5*time.Second)
	set(&l.Tick, 250*time.Millisecond)
	if l.Headers == 0 {
		l.Headers = 100
	}
	if l.PerClient == 0 {
		l.PerClient = 10_000
	}
	if l.Streams == 0 {
		l.Streams = 250
	}
	if l.HeaderListSize == 0 {
		l.HeaderListSize = bufferSize
	}
}

// clients counts connections by client.
type clients struct {
	mu  sync.Mutex
	has map[netip.Addr]int
}

// block is what counts as one client: an address, or a /64, which one IPv6
// customer has whole.
func block(a netip.Addr) netip.Addr {
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p.Addr()
	}
	return a
}

// enter counts a connection and tells whether it is within the limit.
func (c *clients) enter(a netip.Addr, limit int) bool {
	a = block(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.has[a] >= limit {
		return false
	}
	if c.has == nil {
		c.has = map[netip.Addr]int{}
	}
	c.has[a]++
	return true
}

func (c *clients) leave(a netip.Addr) {
	a = block(a)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.has[a]--; c.has[a] <= 0 {
		delete(c.has, a)
	}
}
