// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// joiner makes states of parts. It keeps the last one, so that a service whose
// parts did not change is the same value in the next (see model.State), and
// the work is that of the change.
type joiner struct {
	sources  []Source
	parts    []*index // by source, of the last join; nil: none yet
	services []*model.Service
	problems []string
	hosts    hosts
}

// index is a part by service.
type index struct {
	part       *Part
	services   map[model.ServiceName]*model.Service
	conditions map[model.ServiceName][]Condition // under the zero name those for every service
}

func newIndex(p *Part) *index {
	x := &index{part: p, conditions: map[model.ServiceName][]Condition{}}
	for _, c := range p.Conditions {
		x.conditions[c.Service] = append(x.conditions[c.Service], c)
	}
	return x
}

// define lists the part's services, as those of old where they are equal.
func (x *index) define(old *index) {
	x.services = make(map[model.ServiceName]*model.Service, len(x.part.Services))
	for _, svc := range x.part.Services {
		if had := old.service(svc.Name); had != nil && had.Equal(svc) {
			svc = had
		}
		x.services[svc.Name] = svc
	}
}

func (x *index) service(name model.ServiceName) *model.Service {
	if x == nil {
		return nil
	}
	return x.services[name]
}

// names is a set of services that may have changed.
type names map[model.ServiceName]bool

// join makes one state of the parts that have arrived.
func (j *joiner) join(parts []*Part) (*model.State, []string) {
	s := &model.State{}
	dirty, redefined := names{}, false
	if j.parts == nil {
		j.parts = make([]*index, len(parts))
	}
	for i, p := range parts {
		if p == nil {
			continue
		}
		if p.Settings != nil {
			s.Settings = *p.Settings
		}
		old := j.parts[i]
		if old != nil && old.part == p {
			continue
		}
		now := newIndex(p)
		if old != nil && sameSlice(old.part.Services, p.Services) {
			now.services = old.services
		} else {
			now.define(old)
			redefined = true
		}
		j.parts[i] = now
		j.compare(old, now, dirty)
	}
	if redefined {
		j.findDoubles()
	}
	if len(dirty) > 0 {
		j.renew(dirty)
	}
	s.Services = j.hosts.add(j)
	return s, slices.Concat(j.problems, j.hosts.problems)
}

// compare notes the services that two parts of one source see differently.
func (j *joiner) compare(old, now *index, dirty names) {
	var oldServices map[model.ServiceName]*model.Service
	var oldReplicas map[model.ServiceName][]model.Backend
	var oldConditions map[model.ServiceName][]Condition
	var oldSleep map[model.ServiceName]model.Sleep
	var oldNaps map[model.ServiceName]uint64
	if old != nil {
		oldServices, oldReplicas, oldConditions = old.services, old.part.Replicas, old.conditions
		oldSleep, oldNaps = old.part.Sleep, old.part.Naps
	}
	differ(dirty, oldServices, now.services, func(a, b *model.Service) bool { return a == b })
	differ(dirty, oldReplicas, now.part.Replicas, slices.Equal)
	differ(dirty, oldConditions, now.conditions, slices.Equal)
	differ(dirty, oldSleep, now.part.Sleep, func(a, b model.Sleep) bool { return a == b })
	differ(dirty, oldNaps, now.part.Naps, func(a, b uint64) bool { return a == b })
	if len(now.part.Hosts) > 0 || old != nil && len(old.part.Hosts) > 0 {
		j.hosts.stale = true
	}
	if everyone := (model.ServiceName{}); dirty[everyone] {
		delete(dirty, everyone)
		for _, svc := range j.services {
			dirty[svc.Name] = true
		}
	}
}

// differ adds the keys whose values differ, or which only one map has.
func differ[V any](to names, old, now map[model.ServiceName]V, equal func(a, b V) bool) {
	if reflect.ValueOf(old).UnsafePointer() == reflect.ValueOf(now).UnsafePointer() {
		return
	}
	for name, b := range now {
		if a, ok := old[name]; !ok || !equal(a, b) {
			to[name] = true
		}
	}
	for name := range old {
		if _, ok := now[name]; !ok {
			to[name] = true
		}
	}
}

func sameSlice(a, b []*model.Service) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// findDoubles lists the services that an earlier source defines already.
func (j *joiner) findDoubles() {
	j.problems = nil
	for i, x := range j.parts {
		if x == nil {
			continue
		}
		for _, svc := range x.part.Services {
			if first := j.owner(svc.Name); first != i {
				j.problems = append(j.problems, fmt.Sprintf("service %s of source %s: refused, source %s has a service of that name",
					svc.Name, j.sources[i].Name(), j.sources[first].Name()))
			}
		}
	}
}

// owner is the first source that defines the service; -1: none does.
func (j *joiner) owner(name model.ServiceName) int {
	return slices.IndexFunc(j.parts, func(x *index) bool { return x.service(name) != nil })
}

// renew makes the services of the given names anew and leaves all others as
// they are. States that were handed out keep their list.
func (j *joiner) renew(dirty names) {
	next := slices.Clone(j.services)
	had, gone := len(next), map[*model.Service]bool{}
	for name := range dirty {
		made := j.make(name)
		i, ok := slices.BinarySearchFunc(next[:had], name, func(svc *model.Service, n model.ServiceName) int {
			return svc.Name.Compare(n)
		})
		if ok && made != nil && next[i].Equal(made) {
			made = next[i]
		}
		j.hosts.see(made)
		switch {
		case !ok && made != nil:
			next = append(next, made)
		case ok && made == nil:
			gone[next[i]] = true // it stays until all are found
		case ok:
			next[i] = made
		}
	}
	if len(next) > had {
		slices.SortFunc(next, func(a, b *model.Service) int { return a.Name.Compare(b.Name) })
	}
	if len(gone) > 0 {
		next = slices.DeleteFunc(next, func(svc *model.Service) bool { return gone[svc] })
	}
	j.services = next
}

// make joins what all sources say of a service; nil: none defines it.
func (j *joiner) make(name model.ServiceName) *model.Service {
	first := j.owner(name)
	if first < 0 {
		return nil
	}
	svc := *j.parts[first].services[name]
	svc.Backends = slices.Clone(svc.Backends)
	for _, x := range j.parts {
		if x != nil {
			svc.Backends = append(svc.Backends, x.part.Replicas[name]...)
			svc.Sleep = cmp.Or(svc.Sleep, x.part.Sleep[name])
			svc.Nap = cmp.Or(svc.Nap, x.part.Naps[name])
		}
	}
	svc.Ports = found(&svc)
	slices.SortStableFunc(svc.Backends, model.Backend.Compare)
	svc.Backends = slices.CompactFunc(svc.Backends, func(a, b model.Backend) bool { return a.Compare(b) == 0 })
	for _, x := range j.parts {
		if x != nil {
			judge(&svc, x.conditions[name])
			judge(&svc, x.conditions[model.ServiceName{}])
		}
	}
	return &svc
}

// found is the service's ports, with the container port that its replicas listen
// on where nobody wrote one; one that is ready says which.
func found(svc *model.Service) []model.Port {
	if svc.Assumed == 0 || len(svc.Ports) != 1 {
		return svc.Ports
	}
	port := svc.Ports[0]
	for _, wanted := range []model.Condition{model.Draining, model.Ready} {
		for _, b := range svc.Backends {
			if b.Condition == wanted && b.Replica != "" {
				port.Container = cmp.Or(b.Container, svc.Assumed)
			}
		}
	}
	return []model.Port{port}
}

// judge sets the worst condition that matches each backend.
func judge(svc *model.Service, conditions []Condition) {
	for _, c := range conditions {
		for i := range svc.Backends {
			if b := &svc.Backends[i]; c.matches(svc, *b) {
				b.Condition = max(b.Condition, c.Condition)
				if c.Share > 0 && (b.Share == 0 || c.Share < b.Share) {
					b.Share = c.Share
				}
			}
		}
	}
}
