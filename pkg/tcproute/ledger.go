// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
)

// ledger keeps a number for each of many clients in a fixed amount of memory:
// sets of four, of which the one unused for longest is given up. Hashes are
// seeded, so nobody can choose addresses that meet in a set.
type ledger struct {
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

func newLedger() *ledger { return &ledger{seed: maphash.MakeSeed()} }

// owner is whom an account belongs to.
type owner struct {
	scope  string
	source netip.Addr
}

// update replaces the client's number by what change makes of it; age is the
// time since the last update, and 0 and 0 what is not known begins with.
func (l *ledger) update(scope string, client netip.Addr, now time.Time, change func(value float64, age time.Duration) float64) {
	key := maphash.Comparable(l.seed, owner{scope, conn.Source(client)}) | 1 // 0 is a free account
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

// How clients that retry hard on something hopeless are slowed.
const (
	strikesFree    = 8                // at once
	strikesHalve   = 10 * time.Second // half-life of a strike
	strikeDelay    = 100 * time.Millisecond
	strikeDelayMax = 5 * time.Second
)

// strike notes a hopeless connection and returns how long the client is to
// wait for its answer.
func (l *ledger) strike(client netip.Addr, now time.Time) (wait time.Duration) {
	l.update("strikes", client, now, func(v float64, age time.Duration) float64 {
		v = v*math.Exp2(-age.Seconds()/strikesHalve.Seconds()) + 1
		over := math.Min(v-strikesFree, strikeDelayMax.Seconds()/strikeDelay.Seconds())
		wait = time.Duration(max(over, 0) * float64(strikeDelay))
		return math.Min(v, 200)
	})
	return wait
}

// admit takes a token from the client's bucket of a service; false: it is
// empty. A bucket has burst tokens, or one.
func (l *ledger) admit(service string, client netip.Addr, perSecond, burst uint32, now time.Time) (ok bool) {
	size := math.Max(float64(burst), 1)
	l.update(service, client, now, func(used float64, age time.Duration) float64 {
		used = math.Max(used-age.Seconds()*float64(perSecond), 0)
		if ok = used+1 <= size; ok {
			used++
		}
		return used
	})
	return ok
}
