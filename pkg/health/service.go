// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// service is one service with a health check.
type service struct {
	model    *model.Service // of the newest state
	pass     uint64         // the last state that had it
	ask      *question
	ports    []uint16 // container ports with TCP, sorted
	checks   map[netip.AddrPort]*check
	replicas [][]*check // the checks of each of model.Backends
	note     string     // why nothing is checked

	dirty      bool               // in Checker.dirty
	published  []*check           // as down
	down       []source.Condition // the same, as last published; nothing writes to it
	lastResort string             // why failing checks are passed over; empty: they are not
	returned   []*check           // published until now, and up again
	ramp       ramp               // replicas that start slowly
}

// check is the repeated check of one address and port.
type check struct {
	svc *service
	to  netip.AddrPort
	ask *question
	verdict
	err       error // of the last failure; nil once the replica is up and passes
	published bool  // as down
	idle      bool  // somebody else keeps new connections from it

	due    time.Time
	place  int                // in the queue; notQueued: under way or gone
	cancel context.CancelFunc // of the check under way; nil: none is
	ctx    context.Context    // of the check under way
	begun  time.Time          // of the check under way
	rushed bool               // its time was set together with that of others
	gone   bool               // its result is of no use any more
}

// group is what can be down as a whole: a container port in one family.
type group struct {
	v6   bool
	port uint16
}

func (k *check) group() group { return group{k.to.Addr().Is6(), k.to.Port()} }

func (g group) String() string {
	if g.v6 {
		return fmt.Sprintf("port %d over IPv6", g.port)
	}
	return fmt.Sprintf("port %d over IPv4", g.port)
}

// of lists the checks of a backend, IPv4 first, by port.
func (s *service) of(b model.Backend) []*check {
	var ks []*check
	for _, a := range b.Addrs() {
		for _, p := range s.ports {
			if k := s.checks[netip.AddrPortFrom(a, p)]; k != nil {
				ks = append(ks, k)
			}
		}
	}
	return ks
}

// candidate tells whether the backend would get connections if the checker
// said nothing. One that somebody else drains or holds down is checked but not
// published: it gets none anyway, and its drain stays visible. What is down in
// the state because it is published here tells nothing of the others' opinion,
// which shows as soon as it is published no more; so judging again and again
// comes to rest.
func candidate(b model.Backend, checks []*check) bool {
	if b.Condition == model.Ready {
		return true
	}
	return b.Condition == model.Down && slices.ContainsFunc(checks, func(k *check) bool { return k.published })
}

// judge decides what is published as down, and tells whether that changed.
// A check of a port that no candidate passes (per family) decides nothing:
// the service would serve nobody, while the checks may be wrong and clients
// get a better answer from the replicas. This is the last resort; Envoy calls
// it panic mode. Conditions hold for whole replicas in the state, so a replica
// is also kept if the ones it shares a port with cannot stand in for it: A
// fails on port 80, B on port 81, and both must stay.
func (s *service) judge() (changed bool) {
	var ready [][]*check // by candidate
	answered := map[group]bool{}
	for i, ks := range s.replicas {
		counts := candidate(s.model.Backends[i], ks)
		if counts && len(ks) > 0 {
			ready = append(ready, ks)
		}
		for _, k := range ks {
			k.idle = !counts
			if counts {
				answered[k.group()] = answered[k.group()] || k.up
			}
		}
	}
	failing := func(k *check) bool { return !k.up && answered[k.group()] }
	kept := map[group]bool{} // a replica without fault is there
	for _, ks := range ready {
		if !slices.ContainsFunc(ks, failing) {
			for _, k := range ks {
				kept[k.group()] = true
			}
		}
	}
	needed := map[group]bool{} // answered only by replicas that fail elsewhere
	var down []*check
	for _, ks := range ready {
		sole := func(k *check) bool { return k.up && !kept[k.group()] }
		if slices.ContainsFunc(ks, failing) && slices.ContainsFunc(ks, sole) {
			for _, k := range ks {
				needed[k.group()] = needed[k.group()] || sole(k)
			}
			continue
		}
		for _, k := range ks {
			if failing(k) {
				down = append(down, k)
			}
		}
	}
	s.lastResort = lastResort(answered, needed)
	return s.publish(down)
}

// publish notes which checks are published as down from now on, and tells
// whether that changed.
func (s *service) publish(ks []*check) (changed bool) {
	down := make([]source.Condition, len(ks))
	for i, k := range ks {
		down[i] = source.Condition{Service: s.model.Name, Addr: k.to.Addr(), Port: k.to.Port(), Condition: model.Down}
	}
	for _, k := range s.published {
		k.published = false
	}
	for _, k := range ks {
		k.published = true
	}
	for _, k := range s.published {
		if k.up && !k.published {
			s.returned = append(s.returned, k)
		}
	}
	s.published = ks
	changed = !slices.Equal(down, s.down)
	s.down = down
	return changed
}

// lastResort says why failing checks are passed over, for a person.
func lastResort(answered, needed map[group]bool) string {
	var said []string
	if dead := where(answered, false); dead != "" {
		said = append(said, "no replica passes its check on "+dead+", so that takes none of them out of service")
	}
	if alone := where(needed, true); alone != "" {
		said = append(said, "only replicas that fail another check pass on "+alone+", so they stay in service")
	}
	return strings.Join(said, "; ")
}

// where names the groups with the value.
func where(groups map[group]bool, value bool) string {
	var gs []group
	for g, v := range groups {
		if v == value {
			gs = append(gs, g)
		}
	}
	slices.SortFunc(gs, func(a, b group) int {
		if a.port != b.port {
			return int(a.port) - int(b.port)
		}
		if a.v6 == b.v6 {
			return 0
		} else if b.v6 {
			return -1
		}
		return 1
	})
	names := make([]string, len(gs))
	for i, g := range gs {
		names[i] = g.String()
	}
	return strings.Join(names, " and ")
}

// addresses tells whether both lists have the same addresses in the same order.
func addresses(a, b []model.Backend) bool {
	return slices.EqualFunc(a, b, func(x, y model.Backend) bool { return x.Compare(y) == 0 })
}

// tcpPorts lists the container ports that a check can connect to.
func tcpPorts(ports []model.Port) []uint16 {
	var out []uint16
	for _, p := range ports {
		if p.Protocol == model.TCP {
			out = append(out, p.Container)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
