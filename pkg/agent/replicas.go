// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// mostProblems bounds the replicas a status tells of one by one.
const mostProblems = 20

// finding is what is known of a replica beyond its condition.
type finding struct {
	problem     string // why packets do not reach it and come back, and what to do
	unreachable bool   // none of its addresses is reached
	checked     bool
	healthy     bool   // as its checks say; true without checks
	reason      string // of the checks; empty: all pass
}

// find looks at one replica.
func (a *Agent) find(node model.Node, svc model.ServiceName, b model.Backend) finding {
	h := a.parts.health.Backend(svc, b)
	f := finding{checked: h.Checked, healthy: h.Healthy, reason: h.Reason}
	// Clients on this host alone connect without a packet that is translated.
	hostOnly := node.Interfaces != nil && len(node.Interfaces) == 0
	var problems []string
	lost := 0
	addrs := b.Addrs()
	for _, addr := range addrs {
		hop, known := a.parts.hop(addr)
		if !known {
			continue
		}
		if why := trouble(hop); why != "" {
			problems = append(problems, why)
			if !hop.Local || !hostOnly {
				lost++
			}
		}
	}
	f.problem, f.unreachable = strings.Join(problems, "; "), lost > 0 && lost == len(addrs)
	return f
}

// trouble says why the data plane cannot serve a replica where it is.
func trouble(hop nexthop.Hop) string {
	switch {
	case hop.Local:
		return fmt.Sprintf("%s is an address of this host itself: only clients on this host reach it; "+
			"let the program listen on an address of a network namespace or machine of its own, or have fairlead run it (workload)", hop.Addr)
	case hop.IfIndex == 0:
		return fmt.Sprintf("%s: connections to it time out; look with \"ip route get %s\", or correct the address", hop.Err, hop.Addr)
	case hop.Raw:
		return fmt.Sprintf("%s is behind interface %s, whose packets have no Ethernet header: they are not served; reach it by an interface with Ethernet frames", hop.Addr, hop.IfName)
	}
	return ""
}

// unheard says which TCP ports nothing listens on in a replica that this host
// runs, and what does (row A28). After until nobody looks any more.
func (a *Agent) unheard(m *model.Service, b model.Backend, until time.Time) string {
	if m.Workload == nil || b.Condition != model.Ready {
		return ""
	}
	var out []string
	for _, p := range m.Ports {
		if p.Protocol != model.TCP || time.Now().After(until) {
			continue
		}
		at := netip.AddrPortFrom(b.Addrs()[0], p.Container)
		if why := a.parts.instead(at); why != "" {
			out = append(out, fmt.Sprintf("nothing listens on %s: %s", at, why))
		}
	}
	return strings.Join(out, "; ")
}

// show adds to the view of a service what is known of its replicas.
func (a *Agent) show(node model.Node, m *model.Service, to *admin.Service, until time.Time) {
	for i, b := range m.Backends {
		f, r := a.find(node, m.Name, b), &to.Replicas[i]
		if f.problem == "" {
			f.problem = a.unheard(m, b, until)
		}
		r.Problem, r.Unreachable, r.Reason = f.problem, f.unreachable, f.reason
		if f.checked {
			r.Check = "passing"
			if !f.healthy {
				r.Check = "failing"
			}
		}
	}
}

// countReplicas fills in the counts of replicas and tells, in words, of those
// that cannot be served or fail their checks.
func (a *Agent) countReplicas(state *model.State, counts *admin.Counts) (problems []string) {
	more := 0
	for i := range state.Services {
		svc := state.Services[i]
		for _, b := range svc.Backends {
			f := a.find(state.Settings.Node, svc.Name, b)
			counts.Replicas++
			if b.Condition == model.Ready && !f.unreachable {
				counts.Ready++
			}
			for _, why := range []string{f.problem, failing(f)} {
				if why != "" && len(problems) < mostProblems {
					problems = append(problems, fmt.Sprintf("service %s: replica %s: %s", svc.Name, addresses(b), why))
				} else if why != "" {
					more++
				}
			}
		}
	}
	if more > 0 {
		problems = append(problems, fmt.Sprintf("and %d more of this kind: see \"fairlead services PROJECT/USER\"", more))
	}
	return problems
}

func failing(f finding) string {
	if f.healthy {
		return ""
	}
	return "fails its health check: " + f.reason
}

func addresses(b model.Backend) string {
	var out []string
	for _, addr := range b.Addrs() {
		out = append(out, addr.String())
	}
	return strings.Join(out, " ")
}

// lastResorts says of services why their failing checks take nothing out.
func (a *Agent) lastResorts() map[string]string {
	out := map[string]string{}
	for _, s := range a.parts.health.Services() {
		if s.LastResort != "" {
			out[s.Service.String()] = s.LastResort
		}
	}
	return out
}
