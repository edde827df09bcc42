// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// hosts gives services the HTTP hosts that other sources want for them. Whose
// a host is depends on all services; it is looked into again only after
// something has changed that it depends on.
type hosts struct {
	stale    bool
	seen     map[model.ServiceName]*model.Service // as last seen
	given    map[model.ServiceName][]model.HTTPHost
	made     map[model.ServiceName]hosted
	problems []string
}

// hosted is a service without and with the hosts of others.
type hosted struct{ raw, done *model.Service }

// see notes whether a changed service may change whose a host is; nil: one is
// gone.
func (h *hosts) see(svc *model.Service) {
	if h.stale || svc == nil {
		h.stale = true
		return
	}
	last := h.seen[svc.Name]
	h.stale = last == nil || !slices.Equal(last.Ports, svc.Ports) || !reflect.DeepEqual(last.HTTP, svc.HTTP)
	if !h.stale {
		h.seen[svc.Name] = svc // the last one is let go of
	}
}

// add makes the list of services with everybody's hosts. A service that is the
// same, with the same hosts, is the same value as last time.
func (h *hosts) add(j *joiner) []*model.Service {
	if h.stale {
		h.give(j)
	}
	if len(h.given) == 0 {
		return j.services
	}
	out, made := slices.Clone(j.services), map[model.ServiceName]hosted{}
	for name, more := range h.given {
		i, ok := slices.BinarySearchFunc(out, name, func(svc *model.Service, n model.ServiceName) int { return svc.Name.Compare(n) })
		if !ok {
			continue
		}
		m := h.made[name]
		if m.raw != out[i] {
			done := *out[i]
			done.HTTP = slices.Concat(done.HTTP, more)
			m = hosted{out[i], &done}
		}
		out[i], made[name] = m.done, m
	}
	h.made = made
	return out
}

// give decides whose each host is: the state's before those of sources, and
// earlier sources' before later ones'.
func (h *hosts) give(j *joiner) {
	before := h.given
	h.stale, h.given, h.problems = false, map[model.ServiceName][]model.HTTPHost{}, nil
	h.seen = make(map[model.ServiceName]*model.Service, len(j.services))
	owner := map[string]model.ServiceName{}
	for _, svc := range j.services {
		h.seen[svc.Name] = svc
		for _, host := range svc.HTTP {
			if _, taken := owner[host.Host]; !taken {
				owner[host.Host] = svc.Name
			}
		}
	}
	for i, x := range j.parts {
		if x == nil {
			continue
		}
		for _, name := range slices.SortedFunc(maps.Keys(x.part.Hosts), model.ServiceName.Compare) {
			svc := h.seen[name]
			if svc == nil {
				continue
			}
			for _, host := range x.part.Hosts[name] {
				first, taken := owner[host.Host]
				if taken && first == name {
					continue // its own config says so, too
				}
				why := complete(svc, h.given[name], &host)
				if taken {
					why = fmt.Sprintf("service %s has it already", first)
				}
				if why != "" {
					h.problems = append(h.problems, fmt.Sprintf("host %s of source %s for service %s: refused, %s", host.Host, j.sources[i].Name(), name, why))
					continue
				}
				owner[host.Host] = name
				h.given[name] = append(h.given[name], host)
			}
		}
	}
	for name, m := range h.made {
		if !reflect.DeepEqual(before[name], h.given[name]) {
			m.raw = nil
			h.made[name] = m
		}
	}
}

// complete gives a host without paths those of the service's first host, or
// leads / to its first TCP port. It says why that cannot be.
func complete(svc *model.Service, given []model.HTTPHost, h *model.HTTPHost) string {
	if len(h.Paths) > 0 {
		return ""
	}
	if all := slices.Concat(svc.HTTP, given); len(all) > 0 {
		h.Paths = all[0].Paths
		return ""
	}
	i := slices.IndexFunc(svc.Ports, func(p model.Port) bool { return p.Protocol == model.TCP })
	if i < 0 {
		return "the service has no TCP port, which HTTP needs"
	}
	h.Paths = []model.HTTPPath{{Path: "/", ServicePort: svc.Ports[i].Service, BackendTLS: model.BackendTLS{Mode: "off"}}}
	return ""
}
