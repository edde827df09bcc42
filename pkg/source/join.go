// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// join makes one state of the parts that have arrived. It copies what it
// changes: parts stay immutable.
func join(sources []Source, parts []*Part) (*model.State, []string) {
	s := &model.State{}
	var problems []string
	owner := map[model.ServiceName]string{}
	for i, p := range parts {
		if p == nil {
			continue
		}
		if p.Settings != nil {
			s.Settings = *p.Settings
		}
		for _, svc := range p.Services {
			if first, taken := owner[svc.Name]; taken {
				problems = append(problems, fmt.Sprintf("service %s of source %s: refused, source %s has a service of that name",
					svc.Name, sources[i].Name(), first))
				continue
			}
			owner[svc.Name] = sources[i].Name()
			svc.Backends = slices.Clone(svc.Backends)
			s.Services = append(s.Services, svc)
		}
	}
	slices.SortFunc(s.Services, func(a, b model.Service) int { return a.Name.Compare(b.Name) })
	for i := range s.Services {
		svc := &s.Services[i]
		for _, p := range parts {
			if p != nil {
				svc.Backends = append(svc.Backends, p.Replicas[svc.Name]...)
			}
		}
		slices.SortStableFunc(svc.Backends, model.Backend.Compare)
		svc.Backends = slices.CompactFunc(svc.Backends, func(a, b model.Backend) bool { return a.Compare(b) == 0 })
	}
	judge(s, parts)
	return s, append(problems, addHosts(s, sources, parts)...)
}

func judge(s *model.State, parts []*Part) {
	for _, p := range parts {
		if p == nil || len(p.Conditions) == 0 {
			continue
		}
		for i := range s.Services {
			svc := &s.Services[i]
			for j := range svc.Backends {
				for _, c := range p.Conditions {
					if c.matches(svc, svc.Backends[j]) {
						svc.Backends[j].Condition = max(svc.Backends[j].Condition, c.Condition)
					}
				}
			}
		}
	}
}
