// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"sync"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// withdrawal is the source by which a stopping agent takes its workloads out
// of service before they are stopped: replicas drain, so that no new
// connection meets one that is going away.
type withdrawal struct {
	mu      sync.Mutex
	part    source.Part
	publish func(source.Part)
}

// Name is "shutdown".
func (*withdrawal) Name() string { return "shutdown" }

// Run publishes nothing of note until drain is called.
func (w *withdrawal) Run(ctx context.Context, publish func(source.Part)) error {
	w.mu.Lock()
	w.publish = publish
	publish(w.part)
	w.mu.Unlock()
	<-ctx.Done()
	w.mu.Lock()
	w.publish = nil
	w.mu.Unlock()
	return nil
}

// drain has the addresses take no new connections.
func (w *withdrawal) drain(addrs []netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = source.Part{}
	for _, a := range addrs {
		w.part.Conditions = append(w.part.Conditions, source.Condition{Addr: a, Condition: model.Draining})
	}
	if w.publish != nil {
		w.publish(w.part)
	}
}

// withdraw drains the workloads' replicas and waits until the targets that
// forward have applied it.
func (a *Agent) withdraw(ctx context.Context) error {
	gone := map[netip.Addr]bool{}
	var addrs []netip.Addr
	for _, r := range a.parts.replicas() {
		for _, addr := range []netip.Addr{r.Addr4, r.Addr6} {
			if addr.IsValid() && !gone[addr] {
				gone[addr] = true
				addrs = append(addrs, addr)
			}
		}
	}
	if len(addrs) == 0 {
		return nil
	}
	a.parts.withdrawal.drain(addrs)
	s, err := a.engine.await(ctx, func(s *model.State) bool { return !serves(s, gone) })
	if err != nil {
		return err
	}
	return a.engine.applied(ctx, s.Generation, a.parts.forward...)
}

// serves tells whether a backend at one of the addresses takes connections.
func serves(s *model.State, addrs map[netip.Addr]bool) bool {
	for i := range s.Services {
		for _, b := range s.Services[i].Backends {
			if b.Condition == model.Ready && (addrs[b.Addr4] || addrs[b.Addr6]) {
				return true
			}
		}
	}
	return false
}
