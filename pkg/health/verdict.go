// SPDX-License-Identifier: Apache-2.0

package health

import "time"

// verdict is what the results so far say of one address and port. It starts
// up and unknown: only failures take a replica out, never a lack of results.
type verdict struct {
	up    bool
	known bool      // a result has decided
	since time.Time // when up became what it is, or known true
	ok    bool      // the last result
	row   int       // results in a row like the last; 0: none yet
}

// observe adds a result and tells whether up changed. Rise passes in a row
// make it up, fall failures in a row down; the first pass of all suffices.
func (v *verdict) observe(ok bool, rise, fall int, now time.Time) (flipped bool) {
	if v.row == 0 || v.ok != ok {
		v.ok, v.row = ok, 0
	}
	v.row++
	switch {
	case ok && !v.known:
		v.known, v.since = true, now
	case ok && !v.up && v.row >= rise:
		v.up, v.since = true, now
		return true
	case !ok && v.up && v.row >= fall:
		v.known, v.up, v.since = true, false, now
		return true
	}
	return false
}

// recount keeps the verdict and forgets the count, for a check that goes on
// with another interval or another rise and fall.
func (v verdict) recount() verdict {
	v.row = 0
	return v
}
