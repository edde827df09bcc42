// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"time"
)

// settleTime is what everybody who sends to a replica has to notice that it
// is to go, before it may be stopped for having no connections.
const settleTime = 500 * time.Millisecond

// Drain waits until the replica has no connections any more or has ended, at
// most for limit. Whether UDP flows live on cannot be seen, nor those of a
// process that cannot be: they get all of it, but for UDP of which nobody makes use
// (idle).
func (r Replica) Drain(ctx context.Context, limit time.Duration, idle bool, ended func() bool) {
	if limit <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, udp := Split(r.Ports)
	for wait := settleTime; ; wait = settleTime / 5 {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if ended() || (len(udp) == 0 || idle) && r.PID != 0 && !r.busy() {
			return
		}
	}
}
