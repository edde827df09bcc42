// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
)

// names lists the TLS server names by service.
func (a *Agent) names() map[string][]admin.Name {
	out := map[string][]admin.Name{}
	for _, n := range a.parts.tcp.Names() {
		svc := n.Service.String()
		out[svc] = append(out[svc], admin.Name{
			Host: n.Host, Kind: string(n.Kind), TLS: n.TLS, Connections: n.Connections, Active: n.Active,
			BytesIn: n.BytesIn, BytesOut: n.BytesOut, Problem: n.Problem,
		})
	}
	return out
}

// namesTrouble says which names refuse their connections, and why.
func (a *Agent) namesTrouble() (problems []string) {
	more := 0
	for _, n := range a.parts.tcp.Names() {
		switch {
		case n.Problem == "":
		case len(problems) < mostProblems:
			problems = append(problems, fmt.Sprintf("service %s: name %s: %s", n.Service, n.Host, n.Problem))
		default:
			more++
		}
	}
	if more > 0 {
		problems = append(problems, fmt.Sprintf("and %d more names: see \"fairlead services PROJECT/USER\"", more))
	}
	return problems
}

// routed is what became of connections by server name, for the metrics.
func (a *Agent) routed() metrics.Router {
	out := metrics.Router{Active: map[string]uint64{}}
	for _, c := range a.parts.tcp.Counts() {
		out.Results = append(out.Results, metrics.RouterResult{Kind: c.Kind, Result: string(c.Result), Count: c.N})
	}
	for _, n := range a.parts.tcp.Names() {
		out.Active[n.Kind.Label()] += n.Active
	}
	return out
}
