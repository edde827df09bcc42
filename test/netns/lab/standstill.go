// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"sync/atomic"
	"time"
)

const (
	// heartbeat is how often a standstill looks at the clock.
	heartbeat = 20 * time.Millisecond
	// noticed is how much later than that it must be for the machine to have stood
	// still: as a virtual one it does, for seconds at times.
	noticed = 300 * time.Millisecond
)

// standstill adds up the time in which this process was not run at all. An answer
// that is late by that is not late by anything under test.
type standstill struct{ lost atomic.Int64 }

// watch runs until stop is closed.
func (s *standstill) watch(stop <-chan struct{}) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := time.Now()
		if gap := now.Sub(last); gap > noticed {
			s.lost.Add(int64(gap))
		}
		last = now
	}
}

// soFar is how long that has been.
func (s *standstill) soFar() time.Duration { return time.Duration(s.lost.Load()) }
