// SPDX-License-Identifier: Apache-2.0

package attach

// sharedSlot counts for all interfaces beyond the first 254.
const sharedSlot = 255

// slots gives out the counter slots 1…254, each to one interface. One that was
// freed is taken again only after all others, so that counters of a new
// interface do not continue those of the last one. The zero value is ready.
type slots struct {
	used [sharedSlot + 1]bool
	last uint8
}

// take gives out a slot: the preferred one if it is free, else the next.
// It is never 0; sharedSlot stands for "no more".
func (s *slots) take(preferred uint8) uint8 {
	if preferred > 0 && preferred < sharedSlot && !s.used[preferred] {
		s.used[preferred] = true
		s.last = max(s.last, preferred)
		return preferred
	}
	for range sharedSlot - 1 {
		s.last = s.last%(sharedSlot-1) + 1
		if !s.used[s.last] {
			s.used[s.last] = true
			return s.last
		}
	}
	return sharedSlot
}

// free gives a slot back; 0 and sharedSlot are nobody's own.
func (s *slots) free(slot uint8) {
	if slot > 0 && slot < sharedSlot {
		s.used[slot] = false
	}
}
