// SPDX-License-Identifier: Apache-2.0

package health

import (
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// rungs bounds the steps of a slow start: each one is a new state, and a new
// table in the data plane.
const rungs = 9

// replicaKey tells replicas of a service apart.
type replicaKey struct{ addr4, addr6 netip.Addr }

func keyOf(b model.Backend) replicaKey { return replicaKey{b.Addr4, b.Addr6} }

// ramp is the replicas of a service that were found down, pass again, and get
// their share of new connections step by step: a replica with cold caches is
// not overrun by what the others share.
type ramp struct {
	since  map[replicaKey]time.Time
	shares []source.Condition // as last published; nothing writes to it
	next   time.Time          // of the next step; zero: none
}

// rise begins and continues slow starts, and tells whether a share changed. A
// replica that is only kept at the last resort, or was never published as
// down, has not come back.
func (s *service) rise(now time.Time) (changed bool) {
	r := &s.ramp
	over := s.model.Health.SlowStart
	since := map[replicaKey]time.Time{}
	var shares []source.Condition
	r.next = time.Time{}
	for i, b := range s.model.Backends {
		begun, rising := r.since[keyOf(b)]
		ks := s.replicas[i]
		if slices.ContainsFunc(ks, func(k *check) bool { return k.published }) || over <= 0 {
			continue
		}
		if slices.ContainsFunc(ks, func(k *check) bool { return slices.Contains(s.returned, k) }) {
			begun, rising = now, true
		}
		share, next := shareAt(now.Sub(begun), over)
		if !rising || share == 0 {
			continue
		}
		since[keyOf(b)] = begun
		shares = append(shares, source.Condition{Service: s.model.Name, Addr: b.Addrs()[0], Share: share})
		r.next = sooner(r.next, begun.Add(next))
	}
	s.returned = nil
	changed = !slices.Equal(shares, r.shares)
	r.since, r.shares = since, shares
	return changed
}

// shareAt is the share, in per cent, of a replica that came back so long ago,
// and when that changes. Steps are alike and at least a second apart. 0: all.
func shareAt(age, over time.Duration) (share uint8, next time.Duration) {
	if age >= over {
		return 0, 0
	}
	steps := min(max(over/time.Second, 1), rungs)
	step := age * steps / over
	// Rounded up, so that the step has begun when its time has come.
	return uint8(100 * (step + 1) / (steps + 1)), (over*(step+1) + steps - 1) / steps
}

// shareOf is what is published of a replica; 0: nothing.
func (r *ramp) shareOf(b model.Backend) uint8 {
	for _, c := range r.shares {
		if c.Addr == b.Addrs()[0] {
			return c.Share
		}
	}
	return 0
}
