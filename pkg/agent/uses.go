// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// mostUses bounds what is told of one by one; mostFlows what is looked at.
const (
	mostUses  = 50
	mostFlows = 10_000
)

// usesOf lists what keeps a service awake or waits for it (row W09), the oldest
// first, and counts what is not in the list: connections of programs on this
// host, which no packet tells of, among them.
func (a *Agent) usesOf(ctx context.Context, name model.ServiceName) (uses []admin.Use, more int) {
	now := time.Now()
	add := func(kind, client string, since time.Time, detail string) {
		u := admin.Use{Kind: kind, Client: client, Detail: detail}
		if !since.IsZero() {
			u.Seconds = max(now.Sub(since).Seconds(), 0)
		}
		uses = append(uses, u)
	}
	fronts := 0 // connections to replicas that are told of by what they are for
	for _, c := range a.parts.held() {
		if c.Service != name {
			continue
		}
		kind, detail := "held", fmt.Sprintf("to port %d, opened while it slept", c.Port)
		if !c.Joined {
			kind, detail = "waiting", fmt.Sprintf("to port %d, until a replica is ready", c.Port)
		} else {
			fronts++
		}
		add(kind, c.Client.String(), c.Since, detail)
	}
	for _, u := range a.parts.using(name) {
		fronts++
		add(u.Kind, u.Client.String(), u.Since, map[string]string{"request": "HTTP in flight", "websocket": "open WebSocket", "http2": "HTTP/2 in flight"}[u.Kind])
	}
	for _, s := range a.parts.tcp.Sessions(name) {
		fronts++
		add(s.Kind.Label(), s.Client.String(), s.Since, "by the name "+s.Host)
	}
	flows := 0
	_ = a.parts.flows(ctx, dataplane.FlowFilter{Service: name, Limit: mostFlows}, func(f dataplane.Flow) bool {
		if f.State == "closing" {
			return true
		}
		flows++
		add("connection", f.Client.String(), time.Time{}, fmt.Sprintf("to %s, %s, %s idle", f.VIP, f.State, f.Idle.Round(time.Second)))
		return true
	})
	if open, err := a.parts.naps.Connections(name); err == nil && open > flows+fronts {
		more = open - flows - fronts
	}
	slices.SortStableFunc(uses, func(a, b admin.Use) int { return cmp.Compare(b.Seconds, a.Seconds) })
	if len(uses) > mostUses {
		more += len(uses) - mostUses
		uses = uses[:mostUses]
	}
	return uses, more
}

// heldCounts is what the metrics tell of connections to sleeping services.
func (a *Agent) heldCounts() metrics.Held {
	c := a.parts.heldCounts()
	h := metrics.Held{
		Waiting: uint64(max(c.Waiting, 0)), Joined: uint64(c.Joined), Pending: uint64(max(c.Pending, 0)), In: c.BytesIn, Out: c.BytesOut,
		Results: map[string]uint64{"joined": c.Passed, "failed": c.Failed, "refused": c.Refused, "gone": c.Gone}, By: map[string]uint64{},
		Datagrams: uint64(max(c.Datagrams, 0)), DatagramResults: map[string]uint64{"passed": c.DatagramsPassed, "dropped": c.DatagramsDropped},
	}
	for name, n := range a.parts.naps.Naps() {
		h.By[name.String()] = uint64(max(n.Waiting, 0))
	}
	return h
}
