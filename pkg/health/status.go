// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Check is what is known of one address and port of a service.
type Check struct {
	Service model.ServiceName `json:"service"`
	Addr    netip.Addr        `json:"address"`
	Port    uint16            `json:"port"` // container port
	Type    string            `json:"type"` // "tcp" | "http"
	// Healthy tells the verdict. It may be passed over: see Service.LastResort.
	Healthy     bool      `json:"healthy"`
	Checked     bool      `json:"checked"`             // false: new, and taken as healthy until fall failures
	Since       time.Time `json:"since"`               // of the verdict
	LastError   string    `json:"lastError,omitempty"` // empty: healthy and passed the last time
	Consecutive int       `json:"consecutive"`         // results in a row like the last one
	Reason      string    `json:"reason,omitempty"`    // LastError, or what else there is to say, and how often in a row
	NextAt      time.Time `json:"nextAt,omitzero"`     // zero: under way
}

// Service is what is known of a service that wants its replicas checked.
type Service struct {
	Service model.ServiceName `json:"service"`
	Type    string            `json:"type"`
	Checks  int               `json:"checks"`
	Healthy int               `json:"healthy"` // of the checks
	// LastResort says why failing checks take no replica out of service: there
	// would be none left. Empty: they do.
	LastResort string `json:"lastResort,omitempty"`
	Note       string `json:"note,omitempty"` // why nothing is checked
}

// Backend sums up the checks of one replica of a service.
type Backend struct {
	Checked bool   // it has checks; without, Healthy is true
	Healthy bool   // every check says so
	Reason  string // of the worst check; or that it starts slowly; empty: all pass
}

// Checks lists every check, by service, address and port.
func (c *Checker) Checks() []Check {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Check
	for name, svc := range c.services {
		for to, k := range svc.checks {
			v := Check{
				Service: name, Addr: to.Addr(), Port: to.Port(), Type: k.ask.Type,
				Healthy: k.up, Checked: k.known, Since: k.since, Consecutive: k.row, Reason: k.reason(),
			}
			if k.err != nil {
				v.LastError = words(k.err, to, k.ask)
			}
			if k.place != notQueued {
				v.NextAt = k.due
			}
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b Check) int {
		return cmp.Or(compare(a.Service, b.Service), a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
	})
	return out
}

// Services lists the services with a health check, by name.
func (c *Checker) Services() []Service {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Service, 0, len(c.services))
	for _, name := range slices.SortedFunc(maps.Keys(c.services), compare) {
		svc := c.services[name]
		v := Service{
			Service: name, Type: svc.model.Health.Type, Checks: len(svc.checks),
			LastResort: svc.lastResort, Note: svc.note,
		}
		for _, k := range svc.checks {
			if k.up {
				v.Healthy++
			}
		}
		out = append(out, v)
	}
	return out
}

// Backend tells of one replica, for the list of a service's replicas and for
// backend_healthy: at the last resort the state calls a failing replica ready.
func (c *Checker) Backend(name model.ServiceName, b model.Backend) Backend {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := Backend{Healthy: true}
	svc := c.services[name]
	if svc == nil {
		return v
	}
	for _, k := range svc.of(b) {
		v.Checked = true
		if r := k.reason(); r != "" && (v.Reason == "" || v.Healthy && !k.up) {
			v.Reason = r
		}
		v.Healthy = v.Healthy && k.up
	}
	if share := svc.ramp.shareOf(b); share > 0 && v.Reason == "" {
		v.Reason = fmt.Sprintf("starts slowly: %d %% of its weight", share)
	}
	return v
}

// Problems says, in words for the status, which services are at their last
// resort or cannot be checked, and whether this host can check at all.
func (c *Checker) Problems() []string {
	var out []string
	for _, s := range c.Services() {
		if s.LastResort != "" {
			out = append(out, fmt.Sprintf("service %s: last resort: %s", s.Service, s.LastResort))
		}
		if s.Note != "" {
			out = append(out, fmt.Sprintf("service %s: %s", s.Service, s.Note))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.strain.now(time.Now()) {
		out = append(out, "health checks cannot be made, replicas keep their last verdict: "+cause(c.strain.err))
	}
	return out
}

// Stats counts what the checker does.
func (c *Checker) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Busy, s.Waiting = c.busy, len(c.queue)
	return s
}
