// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"time"
)

// Ledger keeps a number for each of many clients in a fixed amount of memory:
// sets of four, of which the one unused for longest is given up. Hashes are
// seeded, so nobody can choose addresses that meet in a set. Safe for concurrent
// use. Create it with NewLedger.
type Ledger struct {
	seed maphash.Seed

	mu   sync.Mutex
	sets [ledgerSets][4]account
}

const ledgerSets = 2048 // 192 KiB

type account struct {
	key   uint64
	value float64
	at    time.Duration // since epoch
}

var epoch = time.Now()

// NewLedger makes an empty ledger.
func NewLedger() *Ledger { return &Ledger{seed: maphash.MakeSeed()} }

// owner is whom an account belongs to.
type owner struct {
	scope  string
	source netip.Addr
}

// Update replaces the client's number by what change makes of it; age is the
// time since the last update, and 0 and 0 what is not known begins with.
func (l *Ledger) Update(scope string, client netip.Addr, now time.Time, change func(value float64, age time.Duration) float64) {
	key := maphash.Comparable(l.seed, owner{scope, Source(client)}) | 1 // 0 is a free account
	at := now.Sub(epoch)
	l.mu.Lock()
	defer l.mu.Unlock()
	set := &l.sets[(key^key>>32)>>1%ledgerSets]
	to := &set[0]
	for i := range set {
		if set[i].key == key {
			to = &set[i]
			break
		}
		if set[i].at < to.at {
			to = &set[i]
		}
	}
	if to.key != key {
		*to = account{key: key, at: at}
	}
	to.value, to.at = change(to.value, max(at-to.at, 0)), at
}

// Admit takes a token from the client's bucket of a service, and says when it is
// empty how long it is until there is one; 0: admitted. A bucket has burst
// tokens, or one, and gets perSecond anew. Clients are as of Source.
func (l *Ledger) Admit(service string, client netip.Addr, perSecond, burst uint32, now time.Time) (wait time.Duration) {
	size := math.Max(float64(burst), 1)
	l.Update(service, client, now, func(used float64, age time.Duration) float64 {
		used = math.Max(used-age.Seconds()*float64(perSecond), 0)
		if used+1 > size {
			wait = max(time.Duration((used+1-size)/float64(perSecond)*float64(time.Second)), 1)
			return used
		}
		return used + 1
	})
	return wait
}
