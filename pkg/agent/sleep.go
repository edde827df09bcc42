// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// openedTo sums up the connections that the data plane has led to services.
// Counters that cannot be read tell of nobody: open connections do, too.
func openedTo(st dataplane.Stats, err error) map[model.ServiceName]uint64 {
	if err != nil {
		return nil
	}
	out := make(map[model.ServiceName]uint64, len(st.Services))
	for _, c := range st.Services {
		out[c.Service] += c.Connections
	}
	return out
}
