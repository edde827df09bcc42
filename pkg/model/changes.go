// SPDX-License-Identifier: Apache-2.0

package model

import (
	"iter"
	"net/netip"
	"slices"
)

// Changes walks what differs between two states' services, in the order of
// their names: as one was (nil: it is new) and as it is (nil: it is gone).
// Either state may be nil, which has none. Services that are the same value in
// memory are passed over without a look at them, so that one change among many
// services is found in the time it takes to compare that many pointers.
func Changes(old, now *State) iter.Seq2[*Service, *Service] {
	return func(yield func(was, is *Service) bool) {
		a, b := services(old), services(now)
		for len(a) > 0 || len(b) > 0 {
			if n := same(a, b); n > 0 {
				a, b = a[n:], b[n:]
				continue
			}
			order := 0
			switch {
			case len(a) == 0:
				order = 1
			case len(b) == 0:
				order = -1
			default:
				order = a[0].Name.Compare(b[0].Name)
			}
			var was, is *Service
			if order <= 0 {
				was, a = a[0], a[1:]
			}
			if order >= 0 {
				is, b = b[0], b[1:]
			}
			if !yield(was, is) {
				return
			}
		}
	}
}

// same is how many services two lists begin with in common.
func same(a, b []*Service) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func services(s *State) []*Service {
	if s == nil {
		return nil
	}
	return s.Services
}

// NewAddrs lists the addresses of replicas that a service has now and did not
// have in the old state, which may be nil.
func NewAddrs(old, now *State) (addrs []netip.Addr) {
	for was, is := range Changes(old, now) {
		if is == nil {
			continue
		}
		known := map[netip.Addr]bool{}
		if was != nil {
			for _, b := range was.Backends {
				for _, a := range b.Addrs() {
					known[a] = true
				}
			}
		}
		for _, b := range is.Backends {
			addrs = append(addrs, slices.DeleteFunc(b.Addrs(), func(a netip.Addr) bool { return known[a] })...)
		}
	}
	return addrs
}
