// SPDX-License-Identifier: Apache-2.0

// Package source defines where desired state comes from and merges it. A
// Source publishes complete snapshots (a Part); Merge gates them until every
// source has synced, joins them, and emits one *model.State. It knows no
// particular source and no target.
package source

import (
	"context"
	"net/netip"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Part is everything one source wants, always whole: what a Part no longer
// holds is gone. A published Part is immutable.
type Part struct {
	// Settings of the node; at most one source has them.
	Settings *model.Settings
	// Services this source defines. A name that an earlier source of the
	// Merge defines already is refused there and reported.
	Services []*model.Service
	// Replicas adds backends to services, whoever defined them. Names without
	// a service are passed over: the service may come later or be gone.
	Replicas map[model.ServiceName][]model.Backend
	// Sleep tells of services, whoever defined them, that they may sleep.
	Sleep map[model.ServiceName]model.Sleep
	Naps  map[model.ServiceName]uint64 // model.Service.Nap of these
	// Hosts adds HTTP hosts to services, whoever defined them. A host without
	// paths gets those of its service. One that the state has already, from an
	// earlier source or for another service, is refused and reported.
	Hosts map[model.ServiceName][]model.HTTPHost
	// Conditions judge backends, whoever defined them; the worst one holds.
	Conditions []Condition
}

// Condition is one judgement on backends, from a health check or an operator.
type Condition struct {
	Service model.ServiceName // zero: every service
	Addr    netip.Addr
	Port    uint16 // container port; 0: every port
	model.Condition
	Share uint8 // of its weight, in per cent, 1 … 99; 0: all. The least one holds.
}

func (c Condition) matches(svc *model.Service, b model.Backend) bool {
	if c.Service != (model.ServiceName{}) && c.Service != svc.Name {
		return false
	}
	if c.Addr != b.Addr4 && c.Addr != b.Addr6 {
		return false
	}
	if c.Port == 0 {
		return true
	}
	for _, p := range svc.Ports {
		if p.Container == c.Port {
			return true
		}
	}
	return false
}

// Source publishes its complete Part at the start and after every change.
type Source interface {
	Name() string
	// Run publishes until ctx ends. The first publish means "synced": all
	// this source knows is in it. publish never blocks for long and may be
	// called from any goroutine until Run returns. An error ends the source;
	// its last Part stays in force.
	Run(ctx context.Context, publish func(Part)) error
}
