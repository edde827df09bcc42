// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// rush is the time between the first checks of new replicas: a start with
// 10 000 of them asks each one within a second.
const rush = 100 * time.Microsecond

// Apply has the replicas of the state checked, and no others. It does not wait
// for results and never fails.
func (c *Checker) Apply(_ context.Context, s *model.State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == c.state {
		return nil
	}
	c.state = s
	c.pass++
	var fresh []*check
	present := 0
	for i := range s.Services {
		m := s.Services[i]
		if m.Health.Type == "" || m.Health.Type == "none" {
			continue
		}
		present++
		svc := c.services[m.Name]
		if svc == nil {
			svc = &service{}
			c.services[m.Name] = svc
		}
		svc.pass = c.pass
		fresh = append(fresh, c.update(svc, m)...)
	}
	if present < len(c.services) {
		c.forgetOthers()
	}
	c.begin(fresh)
	return nil
}

// forgetOthers ends the services that the newest state does not have.
func (c *Checker) forgetOthers() {
	for name, svc := range c.services {
		if svc.pass == c.pass {
			continue
		}
		for _, k := range svc.checks {
			c.forget(k)
		}
		c.stale = c.stale || c.unfit[name] != nil
		delete(c.unfit, name)
		delete(c.rising, name)
		delete(c.services, name)
	}
	c.notify()
}

// update makes a service equal to its model and returns the checks that must
// begin.
func (c *Checker) update(svc *service, m *model.Service) []*check {
	old := svc.model
	svc.model = m // also when nothing changed: the last state must not be kept alive
	if old != nil && slices.Equal(old.Ports, m.Ports) && sameHealth(old.Health, m.Health) {
		if slices.Equal(old.Backends, m.Backends) {
			return nil
		}
		c.suspect(svc)
		if addresses(old.Backends, m.Backends) {
			return nil
		}
	} else {
		svc.ports = tcpPorts(m.Ports)
		if ask := newQuestion(m.Health); svc.ask == nil || !svc.ask.equal(ask) {
			svc.ask = ask
		}
		c.suspect(svc)
	}
	if svc.note = noteOn(svc); svc.note != "" {
		svc.ports = nil
	}
	return c.renew(svc)
}

// renew replaces the checks of a service. Those whose question is the same go
// on undisturbed; where only its pace changed, the verdict is kept.
func (c *Checker) renew(svc *service) (fresh []*check) {
	old := svc.checks
	svc.checks = make(map[netip.AddrPort]*check, len(svc.model.Backends)*len(svc.ports))
	for _, b := range svc.model.Backends {
		for _, a := range b.Addrs() {
			for _, p := range svc.ports {
				to := netip.AddrPortFrom(a, p)
				if svc.checks[to] != nil { // two replicas may share an address of one family
					continue
				}
				was := old[to]
				if was != nil && was.ask == svc.ask {
					svc.checks[to] = was
					delete(old, to)
					continue
				}
				k := &check{svc: svc, to: to, ask: svc.ask, verdict: verdict{up: true, since: time.Now()}, place: notQueued}
				if was != nil {
					if k.published = was.published; k.published {
						svc.published = append(svc.published, k)
					}
					if was.ask.same(svc.ask) {
						k.verdict, k.err = was.recount(), was.err
					}
				} else {
					c.prior.recall(k)
				}
				svc.checks[to] = k
				fresh = append(fresh, k)
			}
		}
	}
	svc.replicas = make([][]*check, len(svc.model.Backends))
	for i, b := range svc.model.Backends {
		svc.replicas[i] = svc.of(b)
	}
	for _, k := range old {
		c.forget(k)
	}
	return fresh
}

// begin gives new checks their first time: soon, and not all at once.
func (c *Checker) begin(fresh []*check) {
	if len(fresh) == 0 {
		return
	}
	now := time.Now()
	spread := time.Duration(len(fresh)) * rush
	for _, k := range fresh {
		k.rushed = true
		k.due = now.Add(time.Duration(c.cfg.Rand() * float64(min(spread, k.ask.Interval))))
		c.queue.add(k)
	}
	c.notify()
}

// forget ends a check at once, also one that is under way.
func (c *Checker) forget(k *check) {
	k.gone = true
	if k.cancel != nil {
		k.cancel()
	}
	c.queue.remove(k)
}

// suspect has a service judged again.
func (c *Checker) suspect(svc *service) {
	c.mark(svc)
	c.notify()
}

// mark is suspect from within Run's loop.
func (c *Checker) mark(svc *service) {
	if !svc.dirty {
		svc.dirty = true
		c.dirty = append(c.dirty, svc)
	}
}

func sameHealth(a, b model.HealthCheck) bool {
	return a.Type == b.Type && a.Path == b.Path && slices.Equal(a.Status, b.Status) &&
		a.Interval == b.Interval && a.Timeout == b.Timeout && a.Rise == b.Rise && a.Fall == b.Fall && a.SlowStart == b.SlowStart
}

// noteOn says why no replica of the service can be checked; empty: they can.
func noteOn(svc *service) string {
	switch {
	case svc.ask.Type != "tcp" && svc.ask.Type != "http":
		return fmt.Sprintf("health check of unknown type %q: replicas are not checked and taken as healthy; use tcp or http", svc.ask.Type)
	case len(svc.ports) == 0:
		return "health check " + svc.ask.Type + " needs a TCP port and the service has only UDP ones: replicas are not checked and taken as healthy"
	}
	return ""
}
