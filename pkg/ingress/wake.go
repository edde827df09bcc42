// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"time"
)

const (
	// learnTime bounds the wait for a table that has the replica of a service
	// just woken; learnPause is between two looks for it.
	learnTime  = 10 * time.Second
	learnPause = time.Millisecond
)

// wake holds a request whose service sleeps until it can be forwarded: the
// verdict is by the table returned then, or says why not. Requests that are
// refused or redirected never come here (row D13).
func (t *Target) wake(ctx context.Context, q *query, v verdict) (*table, verdict) {
	err := t.cfg.Wake(ctx, v.route.service.name, "a request from "+q.client.String())
	if err != nil {
		v.fault.reason = "the service sleeps and could not be woken: " + err.Error()
		return t.table.Load(), v
	}
	// The replica is ready; this front is told of it by the next state.
	for end := time.Now().Add(learnTime); ; {
		now := t.table.Load()
		if v = now.decide(q, t.cfg.Certificates); !v.wake || time.Now().After(end) {
			return now, v
		}
		select {
		case <-ctx.Done():
			return now, v
		case <-time.After(learnPause):
		}
	}
}
