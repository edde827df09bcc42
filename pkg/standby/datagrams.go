// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Bounds of what is held of UDP. Nobody waits for an answer from this host, so
// that the oldest are given up first.
const (
	mostOfService  = 256       // datagrams
	bytesOfService = 256 << 10 // of their payload
	bytesOfAll     = 8 << 20
	// applyTime bounds the wait for the data plane once a replica is ready.
	applyTime = 5 * time.Second
)

// datagram is one that waits.
type datagram struct {
	client  netip.AddrPort
	vip     netip.AddrPort // virtual IP, or an address of the node, and the port
	port    uint16         // container port
	nap     uint64         // of its service, as it came
	ifindex uint32         // by which it came
	data    []byte
}

// datagrams holds what comes by UDP to services that sleep, and has it go to a
// replica through the data plane once one is ready: each as if it came in at that
// moment, with its client's address, in their order (docs/design/0008-udp-wake.md).
type datagrams struct {
	cfg   Config
	find  func(netip.AddrPort) (target, bool)
	send  *sender
	local *sessions
	ctx   context.Context
	wg    sync.WaitGroup

	mu      sync.Mutex
	by      map[model.ServiceName]*crowd
	bytes   int
	changed chan struct{} // closed and replaced when the data plane has changed

	passed, dropped atomic.Uint64
}

// crowd is the clients of one service that wait, and what they sent.
type crowd struct {
	places map[netip.AddrPort]Place
	line   []datagram
	bytes  int
}

func newDatagrams(ctx context.Context, cfg Config, find func(netip.AddrPort) (target, bool)) *datagrams {
	return &datagrams{
		cfg: cfg, find: find, ctx: ctx, by: map[model.ServiceName]*crowd{}, changed: make(chan struct{}),
		local: &sessions{log: cfg.Log, by: map[pair]*session{}, used: map[model.ServiceName]uint64{}},
	}
}

// take puts one into the line of its service.
func (d *datagrams) take(g datagram) {
	to, ok := d.find(g.vip)
	if !ok {
		d.dropped.Add(1)
		return
	}
	name := to.service.Name
	g.port, g.nap = to.port, to.service.Nap
	if d.add(name, g, nil) {
		return
	}
	place, err := d.cfg.Enter(name, "datagram", fmt.Sprintf("a datagram from %s to port %d", g.client.Addr(), g.vip.Port()))
	if err != nil {
		d.dropped.Add(1)
		return
	}
	d.add(name, g, place)
}

// add holds a datagram of a client that waits already, or gets a place now; false:
// it needs one.
func (d *datagrams) add(name model.ServiceName, g datagram, place Place) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.by[name]
	switch {
	case c != nil && c.places[g.client] != nil:
		if place != nil {
			defer place.Leave()
		}
	case place == nil:
		return false
	default:
		if c == nil {
			c = &crowd{places: map[netip.AddrPort]Place{}}
			d.by[name] = c
			defer d.wg.Go(func() { d.serve(name, c) })
		}
		c.places[g.client] = place
	}
	c.line = append(c.line, g)
	c.bytes += len(g.data)
	d.bytes += len(g.data)
	for len(c.line) > mostOfService || c.bytes > bytesOfService {
		d.shift(c)
		d.dropped.Add(1)
	}
	for d.bytes > bytesOfAll {
		d.shift(d.heaviest())
		d.dropped.Add(1)
	}
	return true
}

// shift gives up the oldest.
func (d *datagrams) shift(c *crowd) {
	n := len(c.line[0].data)
	c.line[0] = datagram{}
	c.line = c.line[1:]
	c.bytes -= n
	d.bytes -= n
}

func (d *datagrams) heaviest() (most *crowd) {
	for _, c := range d.by {
		if most == nil || c.bytes > most.bytes {
			most = c
		}
	}
	return most
}

// serve sees one crowd through to its end.
func (d *datagrams) serve(name model.ServiceName, c *crowd) {
	var late <-chan time.Time
	for {
		backends, err := d.wait(c)
		if err != nil {
			d.cfg.Log.Debug("datagrams to a sleeping service are given up", "service", name.String(), "error", err)
			break
		}
		d.mu.Lock()
		changed := d.changed
		d.mu.Unlock()
		if d.replay(name, c, backends) {
			return
		}
		if late == nil {
			late = time.After(applyTime)
		}
		select {
		case <-changed:
			continue
		case <-d.ctx.Done():
		case <-late:
			d.cfg.Log.Warn("datagrams are given up: the data plane goes on holding them though a replica is ready", "service", name.String())
		}
		break
	}
	d.mu.Lock()
	d.dropped.Add(uint64(len(c.line)))
	for len(c.line) > 0 {
		d.shift(c)
	}
	places := d.end(name, c)
	d.mu.Unlock()
	leave(places)
}

// wait waits in any of the places.
func (d *datagrams) wait(c *crowd) ([]model.Backend, error) {
	d.mu.Lock()
	var one Place
	for _, one = range c.places {
		break
	}
	d.mu.Unlock()
	return one.Wait(d.ctx)
}

// end takes a crowd out of the books.
func (d *datagrams) end(name model.ServiceName, c *crowd) map[netip.AddrPort]Place {
	delete(d.by, name)
	return c.places
}

func leave(places map[netip.AddrPort]Place) {
	for _, p := range places {
		p.Leave()
	}
}

// replay sends what waits, in order, and ends the crowd; false: the data plane
// holds it still.
func (d *datagrams) replay(name model.ServiceName, c *crowd, backends []model.Backend) (over bool) {
	for {
		d.mu.Lock()
		if len(c.line) == 0 {
			places := d.end(name, c)
			d.mu.Unlock()
			leave(places)
			if d.cfg.Joined != nil {
				d.cfg.Joined(name)
			}
			return true
		}
		g := c.line[0]
		d.shift(c)
		d.mu.Unlock()
		held, err := d.forward(name, g, backends)
		switch {
		case held:
			d.mu.Lock()
			c.line = append([]datagram{g}, c.line...)
			c.bytes += len(g.data)
			d.bytes += len(g.data)
			d.mu.Unlock()
			return false
		case err != nil:
			d.dropped.Add(1)
			d.cfg.Log.Debug("a datagram to a service that slept is lost", "service", name.String(), "client", g.client, "error", err)
		default:
			d.passed.Add(1)
		}
	}
}

// forward sends one the way it would take now. Those of programs on this host
// go through a socket of their own: the data plane sees packets only.
func (d *datagrams) forward(name model.ServiceName, g datagram, backends []model.Backend) (held bool, err error) {
	if g.ifindex == loopbackIndex {
		return false, d.local.send(d.ctx, name, g, backends)
	}
	out, held, err := d.cfg.Replay(frameOf(g.client, g.vip, g.data), g.ifindex)
	if held || err != nil {
		return held, err
	}
	ip, to, err := packetOf(out, g.vip.Addr())
	if err != nil {
		return false, err
	}
	return false, d.send.send(ip, to)
}

// applied has those look again whose datagrams the data plane held.
func (d *datagrams) applied() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.changed)
	d.changed = make(chan struct{})
}

// counts tells how many clients wait, and what they have sent.
func (d *datagrams) counts() (clients, waiting int, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.by {
		clients += len(c.places)
		waiting += len(c.line)
	}
	return clients, waiting, int64(d.bytes)
}

// close ends everything; what waits is lost. Its context has ended.
func (d *datagrams) close() {
	d.wg.Wait()
	d.local.end(func(*session) bool { return true })
	d.local.wg.Wait()
	if d.send != nil {
		d.send.close()
		d.send = nil
	}
}
