// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// addHosts gives services the hosts that other sources want for them, and
// tells of those that it refused.
func addHosts(s *model.State, sources []Source, parts []*Part) []string {
	if !slices.ContainsFunc(parts, func(p *Part) bool { return p != nil && len(p.Hosts) > 0 }) {
		return nil
	}
	owner := map[string]model.ServiceName{}
	for i := range s.Services {
		for _, h := range s.Services[i].HTTP {
			if _, taken := owner[h.Host]; !taken {
				owner[h.Host] = s.Services[i].Name
			}
		}
	}
	var problems []string
	for i, p := range parts {
		if p == nil {
			continue
		}
		for j := range s.Services {
			svc := &s.Services[j]
			for _, h := range p.Hosts[svc.Name] {
				first, taken := owner[h.Host]
				if taken && first == svc.Name {
					continue // its own config says so, too
				}
				why := complete(svc, &h)
				if taken {
					why = fmt.Sprintf("service %s has it already", first)
				}
				if why != "" {
					problems = append(problems, fmt.Sprintf("host %s of source %s for service %s: refused, %s", h.Host, sources[i].Name(), svc.Name, why))
					continue
				}
				owner[h.Host] = svc.Name
				svc.HTTP = append(slices.Clip(svc.HTTP), h)
			}
		}
	}
	return problems
}

// complete gives a host without paths those of the service's first host, or
// leads / to its first TCP port. It says why that cannot be.
func complete(svc *model.Service, h *model.HTTPHost) string {
	if len(h.Paths) > 0 {
		return ""
	}
	if len(svc.HTTP) > 0 {
		h.Paths = svc.HTTP[0].Paths
		return ""
	}
	i := slices.IndexFunc(svc.Ports, func(p model.Port) bool { return p.Protocol == model.TCP })
	if i < 0 {
		return "the service has no TCP port, which HTTP needs"
	}
	h.Paths = []model.HTTPPath{{Path: "/", ServicePort: svc.Ports[i].Service, BackendTLS: model.BackendTLS{Mode: "off"}}}
	return ""
}
