// SPDX-License-Identifier: Apache-2.0

// Package ipam hands out addresses of a prefix, first come, and keeps them over
// restarts: the virtual IPs of services, and the addresses of replicas that
// fairlead runs itself. It remembers an owner that went away, so that one who
// returns gets the same address, until the space runs out. It configures
// nothing: who asked for an address puts it where it belongs.
package ipam

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Config is what a Pool needs.
type Config struct {
	// Path of the file that keeps the addresses; "": they live in memory only.
	Path string
	Log  *slog.Logger     // default slog.Default()
	Now  func() time.Time // default time.Now
	// Local lists the addresses of this host with the interface that has each;
	// Complete gives none of them to a service. Optional.
	Local func() (map[netip.Addr]string, error)
}

// Pool knows who owns which address. An owner has at most one address per
// family. All methods may be called from any goroutine.
type Pool struct {
	cfg Config

	mu      sync.Mutex
	entries map[netip.Addr]entry
	owners  map[ownerKey]netip.Addr
	cursors map[netip.Prefix]netip.Addr // where the search for a free address goes on
	local   map[netip.Addr]string       // as last listed
	last    completion                  // of the last Complete without an error
	dirty   bool                        // the file is older than the entries
	saveErr error
}

// entry is the state of one address.
type entry struct {
	owner string
	fixed bool      // asked for by the owner, not allocated
	gone  time.Time // when the owner left; zero: it is here
}

type ownerKey struct {
	owner string
	v4    bool
}

// TakenError tells that an explicitly wanted address has another owner.
type TakenError struct {
	Addr  netip.Addr
	Owner string // who has it
}

func (e *TakenError) Error() string { return fmt.Sprintf("%s is taken by %s", e.Addr, e.Owner) }

// ExhaustedError tells that every address of a prefix is in use.
type ExhaustedError struct {
	Prefix netip.Prefix
	Size   int // addresses in use
}

func (e *ExhaustedError) Error() string {
	if e.Size == 0 {
		return fmt.Sprintf("prefix %s has no address to give: network, broadcast and the first address stay free; use a wider one", e.Prefix)
	}
	return fmt.Sprintf("prefix %s is used up: all of its %d addresses are taken; use a wider one", e.Prefix, e.Size)
}

// New reads the pool's file. A file that cannot be read is logged and, when
// it is corrupt, moved aside: the pool then starts empty. It never fails,
// because a balancer without remembered addresses is better than none.
func New(cfg Config) *Pool {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Pool{
		cfg: cfg, entries: map[netip.Addr]entry{},
		owners: map[ownerKey]netip.Addr{}, cursors: map[netip.Prefix]netip.Addr{},
	}
	p.load()
	return p
}

// Allocate returns the owner's address in the prefix: the one it has, or had
// before it left, else a free one, else that of whoever left longest ago. An
// address of the same family outside the prefix is given up. When the file
// cannot be written the address is good all the same; see Err.
func (p *Pool) Allocate(prefix netip.Prefix, owner string) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.save()
	return p.allocate(prefix.Masked(), owner)
}

// Reserve gives the owner exactly this address, which need not be in any
// prefix. The error is a *TakenError when somebody present has it.
func (p *Pool) Reserve(addr netip.Addr, owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.save()
	if e, ok := p.entries[addr]; ok && e.owner != owner && e.gone.IsZero() {
		return &TakenError{Addr: addr, Owner: e.owner}
	}
	p.assign(addr, entry{owner: owner, fixed: true})
	return nil
}

// Release marks the owner as gone. Its addresses stay remembered.
func (p *Pool) Release(owner string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v4 := range []bool{true, false} {
		if a, ok := p.owners[ownerKey{owner, v4}]; ok {
			p.leave(a, p.cfg.Now())
		}
	}
	p.save()
}

// Retain marks every owner that is not listed as gone.
func (p *Pool) Retain(owners []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retain(owners)
	p.save()
}

// Err tells why the file is older than the pool; nil when it is not. Every
// later change tries again to write it.
func (p *Pool) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.saveErr
}

func (p *Pool) retain(owners []string) {
	present := map[string]bool{}
	for _, o := range owners {
		present[o] = true
	}
	now := p.cfg.Now() // those who leave together leave at the same time
	for a, e := range p.entries {
		if !present[e.owner] {
			p.leave(a, now)
		}
	}
}

func (p *Pool) allocate(prefix netip.Prefix, owner string) (netip.Addr, error) {
	first, last, ok := usable(prefix)
	if !ok {
		return netip.Addr{}, &ExhaustedError{Prefix: prefix}
	}
	if a, ok := p.owners[ownerKey{owner, first.Is4()}]; ok && prefix.Contains(a) && !p.isLocal(a) {
		p.assign(a, entry{owner: owner})
		return a, nil
	}
	a, ok := p.free(prefix, first, last)
	if !ok {
		a, ok = p.longestGone(prefix)
	}
	if !ok {
		return netip.Addr{}, &ExhaustedError{Prefix: prefix, Size: p.within(prefix)}
	}
	p.assign(a, entry{owner: owner})
	return a, nil
}

// free finds an address nobody has or had. It looks at no more addresses than
// there are entries and addresses of this host, plus one: among so many one is
// free if any is.
func (p *Pool) free(prefix netip.Prefix, first, last netip.Addr) (netip.Addr, bool) {
	a, ok := p.cursors[prefix]
	if !ok {
		a = first
	}
	for range len(p.entries) + len(p.local) + 1 {
		next := a.Next()
		if a == last {
			next = first
		}
		if _, taken := p.entries[a]; !taken && !p.isLocal(a) {
			p.cursors[prefix] = next
			return a, true
		}
		a = next
	}
	return netip.Addr{}, false
}

func (p *Pool) longestGone(prefix netip.Prefix) (found netip.Addr, ok bool) {
	first, last, _ := usable(prefix)
	var since time.Time
	for a, e := range p.entries {
		if e.gone.IsZero() || a.Less(first) || last.Less(a) || p.isLocal(a) {
			continue
		}
		if !ok || cmp.Or(e.gone.Compare(since), a.Compare(found)) < 0 {
			found, since, ok = a, e.gone, true
		}
	}
	return found, ok
}

func (p *Pool) isLocal(a netip.Addr) bool {
	_, is := p.local[a]
	return is
}

func (p *Pool) within(prefix netip.Prefix) (n int) {
	for a := range maps.Keys(p.entries) {
		if prefix.Contains(a) {
			n++
		}
	}
	return n
}

// assign writes one entry and drops what it replaces: the address's former
// owner and the owner's former address of that family.
func (p *Pool) assign(a netip.Addr, e entry) {
	if p.entries[a] == e {
		return
	}
	p.forget(a)
	key := ownerKey{e.owner, a.Is4()}
	if old, ok := p.owners[key]; ok {
		p.forget(old)
	}
	p.entries[a], p.owners[key] = e, a
	p.dirty = true
}

func (p *Pool) forget(a netip.Addr) {
	if e, ok := p.entries[a]; ok {
		delete(p.owners, ownerKey{e.owner, a.Is4()})
		delete(p.entries, a)
		p.dirty = true
	}
}

func (p *Pool) leave(a netip.Addr, now time.Time) {
	if e := p.entries[a]; e.gone.IsZero() {
		e.gone, p.dirty = now.UTC().Truncate(time.Second), true
		p.entries[a] = e
	}
}

// usable bounds the addresses that are given out: not the network's own, not
// the first (kept for a gateway or name server), not IPv4 broadcast.
func usable(prefix netip.Prefix) (first, last netip.Addr, ok bool) {
	if !prefix.IsValid() {
		return first, last, false
	}
	first = prefix.Masked().Addr().Next().Next()
	b := prefix.Masked().Addr().AsSlice()
	for i := prefix.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	if last.Is4() {
		last = last.Prev()
	}
	return first, last, first.IsValid() && prefix.Contains(first) && !last.Less(first)
}

// sorted lists the addresses of the pool in order.
func (p *Pool) sorted() []netip.Addr {
	return slices.SortedFunc(maps.Keys(p.entries), netip.Addr.Compare)
}
