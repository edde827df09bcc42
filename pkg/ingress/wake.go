// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	// learnTime bounds the wait for a table that has the replica of a service
	// just woken; learnPause is between two looks for it.
	learnTime  = 10 * time.Second
	learnPause = time.Millisecond
	// pageReload is when the waiting page is asked for again, in seconds; a
	// request that comes meanwhile is held anew.
	pageReload = 2
)

// wake holds a request whose service sleeps until it can be forwarded: the
// verdict is by the table returned then, or says why not. Requests that are
// refused or redirected never come here (row D13).
func (t *Target) wake(ctx context.Context, q *query, v verdict) (*table, verdict) {
	name := v.route.service.name
	hold, cancel := ctx, context.CancelFunc(func() {})
	if q.person {
		hold, cancel = context.WithTimeout(ctx, v.route.page)
	}
	err := t.cfg.Wake(hold, name, "a request from "+q.client.String())
	patience := hold.Err()
	cancel()
	switch {
	case err != nil && ctx.Err() == nil && errors.Is(patience, context.DeadlineExceeded) && errors.Is(err, context.DeadlineExceeded):
		v.fault = fault{
			code: http.StatusServiceUnavailable, retry: pageReload, wait: true, extra: fmt.Sprintf("Refresh: %d\r\n", pageReload),
			reason: fmt.Sprintf("%s was asleep. Your visit has woken it, and it takes a moment to start.", name),
		}
		return t.table.Load(), v
	case err != nil:
		v.fault.reason = "the service sleeps and could not be woken: " + err.Error()
		var later interface{ RetryAfter() time.Duration }
		if errors.As(err, &later) {
			v.fault.retry = seconds(later.RetryAfter())
		}
		return t.table.Load(), v
	}
	if t.cfg.Joined != nil {
		defer t.cfg.Joined(name)
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

// explain says why a service that nobody may wake has no replica: it is
// stopped, crashes, or has just been started (rows W03 and A30).
func (t *Target) explain(v *verdict) {
	if t.cfg.Why == nil {
		return
	}
	reason, retry := t.cfg.Why(v.route.service.name)
	if reason == "" {
		return
	}
	v.fault.reason = "the workload is not running: " + reason
	if retry > 0 {
		v.fault.retry = seconds(retry)
	}
}

// seconds is a wait as Retry-After has it, at least 1.
func seconds(d time.Duration) int { return int(max(d+time.Second-1, time.Second) / time.Second) }
