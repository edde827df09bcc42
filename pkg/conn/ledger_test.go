// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"net/netip"
	"testing"
	"time"
)

// A bucket gives its burst at once, then the rate, and says when to come again.
func TestLedgerAdmits(t *testing.T) {
	l := NewLedger()
	now := time.Now()
	a, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:0:1::1")
	grant := func(at time.Duration) (n int) {
		for range 100 {
			if l.Admit("p/u", a, 10, 5, now.Add(at)) == 0 {
				n++
			}
		}
		return n
	}
	for _, tc := range []struct {
		at   time.Duration
		want int
	}{{0, 5}, {100 * time.Millisecond, 1}, {350 * time.Millisecond, 2}, {time.Minute, 5}} {
		if got := grant(tc.at); got < tc.want || got > tc.want+1 {
			t.Errorf("at %s: %d, want %d", tc.at, got, tc.want)
		}
	}
	if wait := l.Admit("p/u", a, 10, 5, now.Add(time.Minute)); wait <= 0 || wait > 100*time.Millisecond {
		t.Errorf("an empty bucket says %s, want up to 100 ms", wait)
	}
	if wait := l.Admit("p/u", other, 10, 5, now.Add(time.Minute)); wait != 0 {
		t.Errorf("another client waits %s", wait)
	}
	if wait := l.Admit("p/v", a, 10, 0, now.Add(time.Minute)); wait != 0 {
		t.Errorf("another service has the client wait %s", wait)
	}
}
