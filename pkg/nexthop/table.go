// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Config of a Table; the zero value is production.
type Config struct {
	Log *slog.Logger // default slog.Default()
}

// The rhythm of a Table.
const (
	settle  = 20 * time.Millisecond // how long a burst of changes is collected
	full    = 30 * time.Second      // everything is looked at anew this often, but for at most an eighth of the time
	most    = 256                   // addresses that a pass resolves before Follow may come between
	retry   = 5 * time.Second       // unresolved neighbours are looked at this often
	askWait = 4 * time.Second       // the kernel needs 3 s to give a neighbour up
)

// Table knows the next hops of the tracked addresses. Safe for concurrent use.
type Table struct {
	log   *slog.Logger
	links *Links

	passing sync.Mutex // one pass at a time, so that an older answer never replaces a newer one

	retracked chan struct{} // Track changed which interfaces are led to; holds one notice

	mu    sync.Mutex
	told  bool // Track or Follow has been called
	hops  map[netip.Addr]Hop
	leads map[uint32]int // tracked addresses by the interface they lead to through the network
	asked map[neighKey]time.Time
}

// New opens a table in the network namespace of the caller. The caller closes
// it with Close after Run has returned.
func New(cfg Config) (*Table, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	links, err := OpenLinks()
	if err != nil {
		return nil, err
	}
	return &Table{
		log: cfg.Log, links: links, retracked: make(chan struct{}, 1),
		hops: map[netip.Addr]Hop{}, leads: map[uint32]int{}, asked: map[neighKey]time.Time{},
	}, nil
}

// Close closes the table's sockets.
func (t *Table) Close() { t.links.Close() }

// Links are the questions about interfaces the table's sockets can answer;
// they end with the table.
func (t *Table) Links() *Links { return t.links }

// Track replaces the set of tracked addresses. New ones are resolved before it
// returns. Run tells if they lead to other interfaces than the ones before.
func (t *Table) Track(addrs []netip.Addr) {
	want := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		want[a.Unmap()] = true
	}
	var gone []netip.Addr
	t.mu.Lock()
	for a := range t.hops {
		if !want[a] {
			gone = append(gone, a)
		}
		delete(want, a)
	}
	t.mu.Unlock()
	t.replace(slices.Collect(maps.Keys(want)), gone, true)
}

// Follow adds to the tracked addresses and takes from them. What is added is
// resolved before it returns, also if it is tracked: a replica may have got the
// address, and an interface, of one that went a moment ago, of which the kernel's
// messages are still to be read.
func (t *Table) Follow(add, drop []netip.Addr) { t.replace(add, drop, false) }

// replace is Follow; whole: all is tracked that is to be.
func (t *Table) replace(add, drop []netip.Addr, whole bool) {
	t.passing.Lock()
	defer t.passing.Unlock()
	var fresh []netip.Addr
	t.mu.Lock()
	before := maps.Clone(t.leads)
	for _, a := range drop {
		t.drop(a.Unmap())
	}
	seen := make(map[netip.Addr]bool, len(add))
	for _, a := range add {
		a = a.Unmap()
		if !seen[a] {
			fresh = append(fresh, a)
			seen[a] = true
		}
	}
	t.mu.Unlock()
	found := t.resolve(fresh, false)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range found {
		t.put(h)
	}
	same := func(int, int) bool { return true }
	if !t.told && !whole || t.told && maps.EqualFunc(before, t.leads, same) {
		return
	}
	t.told = true
	select {
	case t.retracked <- struct{}{}:
	default:
	}
}

// Tracked lists the interfaces that tracked addresses lead to through the
// network. told is false before the first Track: then nothing is known.
func (t *Table) Tracked() (interfaces map[uint32]bool, told bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	interfaces = make(map[uint32]bool, len(t.leads))
	for i := range t.leads {
		interfaces[i] = true
	}
	return interfaces, t.told
}

// put notes where a tracked address leads; t.mu is held.
func (t *Table) put(h Hop) {
	t.drop(h.Addr)
	t.hops[h.Addr] = h
	if h.IfIndex != 0 && !h.Local {
		t.leads[h.IfIndex]++
	}
}

// drop forgets an address; t.mu is held.
func (t *Table) drop(a netip.Addr) {
	h, ok := t.hops[a]
	if !ok {
		return
	}
	delete(t.hops, a)
	if h.IfIndex == 0 || h.Local {
		return
	}
	if t.leads[h.IfIndex]--; t.leads[h.IfIndex] == 0 {
		delete(t.leads, h.IfIndex)
	}
}

// Known tells where a tracked address leads, as last heard of; ok is false for
// any other. Unlike Lookup it never asks the kernel.
func (t *Table) Known(addr netip.Addr) (h Hop, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok = t.hops[addr.Unmap()]
	return h, ok
}

// Lookup tells where an address leads: a tracked one as last heard of, any
// other as the kernel answers now.
func (t *Table) Lookup(addr netip.Addr) Hop {
	if h, ok := t.Known(addr); ok {
		return h
	}
	return t.resolve([]netip.Addr{addr.Unmap()}, false)[0]
}

// resolve asks the kernel about each address, in order, and lets it look for
// the neighbours it does not know. With confirm it also lets it check those it
// has not heard of lately: packets that BPF redirects do not do that.
func (t *Table) resolve(addrs []netip.Addr, confirm bool) []Hop {
	p := pass{links: t.links, seen: map[uint32]seenLink{}}
	hops, states := p.resolve(addrs)
	for i := range hops {
		if state := states[i]; hops[i].led() && (state&nudKnown == 0 || confirm && state&unix.NUD_STALE != 0) {
			t.ask(hops[i].neighbour())
		}
	}
	return hops
}

// ask has the kernel look for a neighbour, unless it was asked just now.
func (t *Table) ask(k neighKey) {
	now := time.Now()
	t.mu.Lock()
	recent := now.Sub(t.asked[k]) < askWait
	if !recent {
		t.asked[k] = now
	}
	t.mu.Unlock()
	if recent {
		return
	}
	// Interfaces that are down or have no neighbours refuse; the hop stays
	// unresolved, which is what its reader is told.
	if err := t.links.probe(k); err != nil {
		t.log.Debug("neighbour not asked for", "address", k.addr, "interface", k.ifindex, "error", err)
	}
}

// Change tells what changed since Run told last.
type Change struct {
	Hops    bool // answers of Lookup for tracked addresses
	Tracked bool // Tracked, because Track was given other addresses
	Addrs   bool // perhaps the addresses of this node
}

// Run follows the kernel until ctx ends and calls changed after each change,
// and once at the start. It returns nil when ctx ends, an error if the kernel
// refuses the subscriptions.
func (t *Table) Run(ctx context.Context, changed func(Change)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := newQueue()
	subs := []subscription{{family: unix.NETLINK_ROUTE, groups: append(append(append([]uint32(nil), LinkEvents...), RouteEvents...), neighEvents...)}}
	if g := t.links.netdev.groups["mgmt"]; g != 0 { // XDP features change with a veth's peer
		subs = append(subs, subscription{family: unix.NETLINK_GENERIC, groups: []uint32{g}})
	}
	errs := make([]error, len(subs))
	var wg sync.WaitGroup
	for i, sub := range subs {
		wg.Go(func() {
			defer cancel()
			errs[i] = watch(ctx, t.log, sub, func(m *mdnetlink.Message) { q.add(sub.family, m) })
		})
	}
	t.follow(ctx, q, changed)
	wg.Wait()
	return errors.Join(errs...)
}

// follow refreshes what the queue says has changed.
func (t *Table) follow(ctx context.Context, q *queue, changed func(Change)) {
	all, unresolved := time.NewTimer(full), time.NewTicker(retry)
	defer all.Stop()
	defer unresolved.Stop()
	pause := settle
	for {
		var c Change
		select {
		case <-ctx.Done():
			return
		case <-t.retracked:
			c.Tracked = true
		case <-all.C:
			start := time.Now()
			c.Hops = t.refresh(func(Hop) bool { return true }, true)
			all.Reset(max(full, 8*time.Since(start)))
		case <-unresolved.C:
			c.Hops = t.refresh(func(h Hop) bool { return h.IfIndex != 0 && !h.Local && !h.Resolved() }, false)
		case <-q.ready:
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			everything, addrs, neighs := q.take()
			start := time.Now()
			c.Addrs = addrs
			c.Hops = t.refresh(func(h Hop) bool { return everything || neighs[h.neighbour()] }, false)
			// A big table in a busy network must not eat the machine.
			pause = max(settle, 2*time.Since(start))
		}
		if c != (Change{}) {
			changed(c)
		}
	}
}

// refresh resolves the tracked addresses whose hop is concerned and tells
// whether any answer changed.
func (t *Table) refresh(concerned func(Hop) bool, confirm bool) bool {
	var addrs []netip.Addr
	t.mu.Lock()
	for a, h := range t.hops {
		if concerned(h) {
			addrs = append(addrs, a)
		}
	}
	t.forget()
	t.mu.Unlock()
	diff := false
	for some := range slices.Chunk(addrs, most) {
		diff = t.renew(some, confirm) || diff
	}
	return diff
}

// renew is refresh of a few addresses.
func (t *Table) renew(addrs []netip.Addr, confirm bool) bool {
	t.passing.Lock()
	defer t.passing.Unlock()
	found := t.resolve(addrs, confirm)
	t.mu.Lock()
	defer t.mu.Unlock()
	diff := false
	for _, h := range found {
		if had, tracked := t.hops[h.Addr]; tracked && had != h {
			t.put(h)
			diff = true
		}
	}
	return diff
}

// forget drops the notes of old questions; t.mu is held.
func (t *Table) forget() {
	for k, at := range t.asked {
		if time.Since(at) > askWait {
			delete(t.asked, k)
		}
	}
}

// queue collects what changed between two refreshes.
type queue struct {
	ready chan struct{}

	mu     sync.Mutex
	all    bool
	addrs  bool
	neighs map[neighKey]bool
}

func newQueue() *queue {
	return &queue{ready: make(chan struct{}, 1), neighs: map[neighKey]bool{}}
}

// add notes what a message may have changed; nil stands for anything.
func (q *queue) add(family int, m *mdnetlink.Message) {
	q.mu.Lock()
	switch kind := messageType(family, m); kind {
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		k, _, ok := parseNeigh(m.Data)
		if !ok {
			q.mu.Unlock()
			return
		}
		q.neighs[k] = true
	default:
		q.all = true
		q.addrs = q.addrs || m == nil || kind == unix.RTM_NEWADDR || kind == unix.RTM_DELADDR
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// messageType is the type of a route netlink message; 0: it is none.
func messageType(family int, m *mdnetlink.Message) mdnetlink.HeaderType {
	if m == nil || family != unix.NETLINK_ROUTE {
		return 0
	}
	return m.Header.Type
}

func (q *queue) take() (all, addrs bool, neighs map[neighKey]bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all, addrs, neighs = q.all, q.addrs, q.neighs
	q.all, q.addrs, q.neighs = false, false, map[neighKey]bool{}
	return all, addrs, neighs
}
