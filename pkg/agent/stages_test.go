// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// slowTarget applies when it is let, or fails.
type slowTarget struct {
	fakeTarget
	let  chan struct{} // closed: at once
	fail error
}

func (s *slowTarget) Apply(ctx context.Context, state *model.State) error {
	select {
	case <-s.let:
	case <-ctx.Done():
	}
	if s.fail != nil {
		return s.fail
	}
	return s.fakeTarget.Apply(ctx, state)
}

// A state reaches the second stage when the first has tried it, well or not,
// and after a second at the latest.
func TestStages(t *testing.T) {
	for _, tc := range []struct {
		name  string
		after time.Duration // until the first stage is done; 0: it never is
		fail  error
		want  time.Duration // until the second stage applies
	}{
		{"applied", 300 * time.Millisecond, nil, 300 * time.Millisecond},
		{"failed", 300 * time.Millisecond, errors.New("no such interface"), 300 * time.Millisecond},
		{"hangs", 0, nil, lead},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := &slowTarget{fakeTarget: fakeTarget{name: "attach"}, let: make(chan struct{}), fail: tc.fail}
				second := &fakeTarget{name: "dataplane"}
				e := newEngine(parts{
					sources: []source.Source{fakeSource{testPart()}},
					targets: [][]reconcile.Target{{first}, {second}},
				}, quiet())
				ctx, cancel := context.WithCancel(t.Context())
				begun := time.Now()
				done := make(chan struct{})
				go func() { e.run(ctx); close(done) }()
				if tc.after > 0 {
					time.AfterFunc(tc.after, func() { close(first.let) })
				}
				for second.last() == nil {
					time.Sleep(time.Millisecond)
				}
				if took := time.Since(begun); took < tc.want || took > tc.want+2*time.Millisecond {
					t.Errorf("the second stage applied after %v, want %v", took, tc.want)
				}
				cancel()
				<-done
			})
		})
	}
}

// A change of the host's addresses reaches the data plane where node ports are
// on addresses it looks up, and completes the state anew in any case.
func TestFollow(t *testing.T) {
	nodePort := []model.NodePort{{Port: 9000, ServicePort: 90}}
	for _, tc := range []struct {
		name         string
		change       nexthop.Change
		node         model.Node
		ports        []model.NodePort
		plane, links bool
		again        bool
	}{
		{name: "hops", change: nexthop.Change{Hops: true}, plane: true, links: true},
		{name: "tracked", change: nexthop.Change{Tracked: true}, links: true},
		{name: "addresses", change: nexthop.Change{Addrs: true}, again: true},
		{name: "addresses of node ports", change: nexthop.Change{Addrs: true}, ports: nodePort, plane: true, again: true},
		{
			name: "given addresses", change: nexthop.Change{Addrs: true}, ports: nodePort,
			node: model.Node{Addresses: []netip.Addr{fixed}}, again: true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				part := testPart()
				part.Settings.Node = tc.node
				part.Services[0].NodePorts = tc.ports
				links, plane := &fakeTarget{name: "attach"}, &fakeTarget{name: "dataplane"}
				e := newEngine(parts{
					sources: []source.Source{fakeSource{part}},
					targets: [][]reconcile.Target{{links}, {plane}},
				}, quiet())
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { e.run(ctx); close(done) }()
				synctest.Wait()
				again := false
				e.follow(tc.change, plane, links, func() { again = true })
				synctest.Wait()
				cancel()
				<-done
				if p, l := len(plane.applied) == 2, len(links.applied) == 2; p != tc.plane || l != tc.links || again != tc.again {
					t.Errorf("applied again: data plane %v, attach %v, completed %v; want %v, %v, %v", p, l, again, tc.plane, tc.links, tc.again)
				}
			})
		})
	}
}

// The host's addresses changed: what depends on them is completed anew.
func TestRenewal(t *testing.T) {
	local := &renewal{}
	local.again() // before it runs nobody has to be told
	completed := make(chan struct{}, 8)
	h := newHarness(t, func(p *parts) {
		p.sources = append(p.sources, local)
		p.complete = func(*model.State) error { completed <- struct{}{}; return nil }
	})
	h.run(t)
	wait(t, "start", h.started)
	defer func() { h.cancel(); wait(t, "end", h.done) }()
	for len(completed) > 0 {
		<-completed
	}
	local.again()
	wait(t, "completion", completed)
	if g := h.engine.state().Generation; g != 1 {
		t.Errorf("generation %d for the same state, want 1", g)
	}
}
