// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// opened counts what has been led to services so far: connections by the data
// plane, connections by name, and requests. Counters of the data plane that
// cannot be read are left out; open connections tell of use, too.
func (a *Agent) opened() map[model.ServiceName]uint64 {
	out := map[model.ServiceName]uint64{}
	if st, err := a.parts.stats(); err == nil {
		for _, c := range st.Services {
			out[c.Service] += c.Connections
		}
	}
	for _, n := range a.parts.tcp.Names() {
		out[n.Service] += n.Connections
	}
	for _, r := range a.parts.requests() {
		name, err := model.ParseServiceName(r.Service)
		if err != nil {
			continue // of no service
		}
		for _, n := range r.Codes {
			out[name] += n
		}
	}
	return out
}
