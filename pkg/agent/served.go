// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
)

// notServed is a feature that a state asks for and no target makes real.
type notServed struct {
	feature  model.Feature
	services []string // empty: a setting asks for it
}

func (n notServed) equal(o notServed) bool {
	return n.feature == o.feature && slices.Equal(n.services, o.services)
}

// unserved is what the state uses without what the targets serve, in the
// order of first use.
func unserved(s *model.State, targets []reconcile.Target) []notServed {
	served := map[model.Feature]bool{}
	for _, t := range targets {
		for _, f := range t.Serves() {
			served[f] = true
		}
	}
	var out []notServed
	at := map[model.Feature]int{}
	for _, u := range s.Uses() {
		if served[u.Feature] {
			continue
		}
		i, seen := at[u.Feature]
		if !seen {
			i = len(out)
			at[u.Feature] = i
			out = append(out, notServed{feature: u.Feature})
		}
		if u.Service != (model.ServiceName{}) {
			out[i].services = append(out[i].services, u.Service.String())
		}
	}
	return out
}
