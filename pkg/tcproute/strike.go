// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"math"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
)

// How clients that retry hard on something hopeless are slowed.
const (
	strikesFree    = 8                // at once
	strikesHalve   = 10 * time.Second // half-life of a strike
	strikeDelay    = 100 * time.Millisecond
	strikeDelayMax = 5 * time.Second
)

// strike notes a hopeless connection and returns how long the client is to
// wait for its answer.
func strike(l *conn.Ledger, client netip.Addr, now time.Time) (wait time.Duration) {
	l.Update("strikes", client, now, func(v float64, age time.Duration) float64 {
		v = v*math.Exp2(-age.Seconds()/strikesHalve.Seconds()) + 1
		over := math.Min(v-strikesFree, strikeDelayMax.Seconds()/strikeDelay.Seconds())
		wait = time.Duration(max(over, 0) * float64(strikeDelay))
		return math.Min(v, 200)
	})
	return wait
}
