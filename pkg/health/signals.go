// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Signals tells what became of clients' own connections (dataplane.Signs).
type Signals interface {
	// EachFailure calls yield for every replica address and TCP port to which
	// connections failed since the call before: in which way, in words for a
	// person, and how many.
	EachFailure(yield func(to netip.AddrPort, how string, count int)) error
}

const (
	// listenEvery is the time between two looks at the signals.
	listenEvery = time.Second
	// patient bounds the part of a processor that looking takes: in a flood of
	// SYNs there is much to look at, and the looks are rarer.
	patient = 50
	// heard bounds the replicas that one look takes notice of.
	heard = 1024
)

// sign is a failure that the data plane saw.
type sign struct {
	how   string
	count int
}

func (s sign) Error() string {
	if s.count == 1 {
		return "a client's connection failed: " + s.how
	}
	return fmt.Sprintf("%d clients' connections failed: %s", s.count, s.how)
}

// listen takes notice of signals until ctx ends. Without checks it reads none.
func (c *Checker) listen(ctx context.Context) {
	timer := time.NewTimer(listenEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begun := time.Now()
		if !c.watching() {
			timer.Reset(listenEvery)
			continue
		}
		signs := map[netip.AddrPort]sign{}
		err := c.cfg.Signals.EachFailure(func(to netip.AddrPort, how string, count int) {
			if s, known := signs[to]; known || len(signs) < heard {
				if count >= s.count {
					s.how = how // the most frequent one is named
				}
				signs[to] = sign{s.how, s.count + count}
			}
		})
		c.hear(signs, err)
		timer.Reset(max(listenEvery, patient*time.Since(begun)))
	}
}

func (c *Checker) watching() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.services) > 0
}

// hear counts signals as failed checks of their replicas, and has those
// checked at once. That one decides: the failure that takes a replica out of
// service is never a signal, which may be the network's fault, or a client's.
func (c *Checker) hear(signs map[netip.AddrPort]sign, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.deaf == nil {
		c.news = append(c.news, news{slog.LevelError, "failed connections cannot be read; replicas are checked all the same", []any{"error", err}})
		c.notify()
	}
	c.deaf = err
	if len(signs) == 0 {
		return
	}
	now := time.Now()
	for _, svc := range c.services {
		for to, s := range signs {
			if k := svc.checks[to]; k != nil && k.up {
				c.sign(k, s, now)
			}
		}
	}
	c.notify()
}

func (c *Checker) sign(k *check, s sign, now time.Time) {
	c.stats.Signals++
	failed := 0
	if !k.ok {
		failed = k.row
	}
	if failed+1 < k.ask.Fall {
		k.err = s
		k.observe(false, k.ask.Rise, k.ask.Fall, now)
	}
	if k.place != notQueued && k.due.After(now) {
		c.queue.remove(k)
		k.due = now
		c.queue.add(k)
	}
}
