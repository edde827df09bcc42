// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Bounds of the search for a replica.
const (
	dialTimeout  = 3 * time.Second  // for one address
	reachTimeout = 10 * time.Second // for all
	reachTries   = 8
	// shun is how long an address that could not be reached comes last.
	shun = 5 * time.Second
)

// order lists the addresses a connection of the client tries, best first:
// ready primaries, then backups only if there is no ready primary, as in L4;
// the backups follow all the same where every primary failed to connect.
// Within these the weights decide, by weighted rendezvous hashing (Schindelhauer
// and Schomaker, "Weighted Distributed Hash Tables", 2005): with affinity the
// client's address is the key, otherwise chance is.
func (r *Router) order(to *route, client netip.Addr) []netip.AddrPort {
	var out []netip.AddrPort
	for _, group := range [][]candidate{to.primary, to.backup} {
		sorted := r.sorted(to, group, client)
		for _, c := range sorted {
			out = append(out, netip.AddrPortFrom(c.prefer(client), to.port))
		}
		for _, c := range sorted { // the other family, when all else fails
			for _, a := range c.addrs {
				if a != c.prefer(client) {
					out = append(out, netip.AddrPortFrom(a, to.port))
				}
			}
		}
	}
	// Those that were seen failing just now come last, in the same order.
	now := r.now()
	slices.SortStableFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Compare(one(r.shunned(a, now)), one(r.shunned(b, now)))
	})
	return out
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// prefer is the address in the client's family, or the one there is.
func (c candidate) prefer(client netip.Addr) netip.Addr {
	for _, a := range c.addrs {
		if a.Is4() == client.Is4() {
			return a
		}
	}
	return c.addrs[0]
}

func (r *Router) sorted(to *route, group []candidate, client netip.Addr) []candidate {
	type scored struct {
		candidate
		score float64
	}
	all := make([]scored, len(group))
	for i, c := range group {
		u := rand.Float64()
		if to.affinity {
			u = uniform(client, c.addrs[0])
		}
		score := -math.Log(1-u) / c.weight // exponential with rate weight: the least wins
		if to.least && !to.affinity {
			active := 0
			for _, a := range c.addrs {
				active += r.flows.at(replicaKey{to.service, netip.AddrPortFrom(a, to.port)})
			}
			score = (float64(active)+1)/c.weight + score*1e-6 // chance among equals
		}
		all[i] = scored{c, score}
	}
	slices.SortFunc(all, func(a, b scored) int { return cmp.Compare(a.score, b.score) })
	out := make([]candidate, len(all))
	for i := range all {
		out[i] = all[i].candidate
	}
	return out
}

// uniform makes a number from 0 up to 1 of two addresses, the same on every
// node and after every start. FNV's hashes are alike for like keys; the
// finalizer of SplitMix64 (Steele, Lea, Flood, 2014) mixes them.
func uniform(client, replica netip.Addr) float64 {
	f := fnv.New64a()
	for _, a := range [][16]byte{client.As16(), replica.As16()} {
		_, _ = f.Write(a[:])
	}
	h := f.Sum64()
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return float64((h^h>>31)>>11) / (1 << 53)
}

func (r *Router) shunned(a netip.AddrPort, now time.Time) bool {
	v, ok := r.failed.Load(a)
	return ok && now.Before(v.(time.Time))
}

// reach connects to the first replica that takes the connection and greets
// well. greet may be nil.
func (r *Router) reach(ctx context.Context, to *route, client netip.Addr, greet func(net.Conn) error) (*net.TCPConn, netip.AddrPort, *refusal) {
	addrs := r.order(to, client)
	if len(addrs) == 0 && to.wakes && r.cfg.Wake != nil {
		ready, err := r.cfg.Wake(ctx, to.service, fmt.Sprintf("a connection from %s to %s", client, to.host))
		if err != nil {
			return nil, netip.AddrPort{}, notWoken(err)
		}
		if r.cfg.Joined != nil {
			defer r.cfg.Joined(to.service)
		}
		woken := *to
		woken.replicas(ready)
		if len(ready) > 0 {
			woken.port = cmp.Or(ready[0].Container, to.port)
		}
		addrs = r.order(&woken, client)
	}
	if len(addrs) == 0 {
		return nil, netip.AddrPort{}, noReplica(r.cfg.Why(to.service))
	}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	var errs []error
	for _, a := range addrs[:min(len(addrs), reachTries)] {
		c, err := r.connect(ctx, a, greet)
		if err == nil {
			r.failed.Delete(a)
			return c, a, nil
		}
		errs = append(errs, fmt.Errorf("replica %s: %w", a, err))
		if ctx.Err() != nil {
			break
		}
		r.failed.Store(a, r.now().Add(shun))
	}
	return nil, netip.AddrPort{}, backendFailed(errors.Join(errs...))
}

func (r *Router) connect(ctx context.Context, a netip.AddrPort, greet func(net.Conn) error) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := r.cfg.Dial(ctx, a)
	if err != nil || greet == nil {
		return c, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = greet(c)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}
