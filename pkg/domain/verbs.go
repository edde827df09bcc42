// SPDX-License-Identifier: Apache-2.0

package domain

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Site is where the domains are to lead to.
type Site struct {
	State     *model.State
	Addresses []netip.Addr // public ones of the node
}

// Result is what a verb did or saw.
type Result struct {
	Domain  Domain
	Changed bool           // false: it was so before
	Records []Record       // to be set, or looked at; empty: the verb does without
	Asked   netip.AddrPort // the resolver that was; invalid: none was asked
}

// OK tells whether all records that matter are as wanted.
func (r Result) OK() bool {
	return !slices.ContainsFunc(r.Records, func(x Record) bool { return !x.OK })
}

// Add begins to bind a host to a service and tells the records to set. Nothing
// is served or ordered for it before Confirm. A host that something else has is
// ErrConflict; the same one again gets the same token.
func (s *Store) Add(site Site, host string, service model.ServiceName) (Result, error) {
	name, err := Canonical(host)
	if err != nil {
		return Result{}, err
	}
	svc, ok := site.State.Service(service)
	if !ok {
		return Result{}, fmt.Errorf("%w: no service %s", ErrUnknown, service)
	}
	if !slices.ContainsFunc(svc.Ports, func(p model.Port) bool { return p.Protocol == model.TCP }) {
		return Result{}, fmt.Errorf("service %s has no TCP port, which HTTP needs; add one under run", service)
	}
	d, err := s.find(name)
	if err == nil && d.Service != service {
		return Result{}, fmt.Errorf("%w: %s is bound to %s already; remove it there first (\"fairlead domain remove %s\")", ErrConflict, name, d.Service, name)
	}
	if other, taken := holder(site.State, name); taken && (err != nil || other != service) {
		return Result{}, fmt.Errorf("%w: host %s is served by %s already, as its config says", ErrConflict, name, other)
	}
	changed := err != nil
	if changed {
		d = Domain{Host: name, Service: service, Token: newToken(), Added: s.cfg.Now().UTC()}
		if err := s.change(Domain{Host: name}, &d); err != nil {
			return Result{}, err
		}
	}
	return Result{Domain: d, Changed: changed, Records: wanted(d, site)}, nil
}

// holder is the service that has a host in the state.
func holder(state *model.State, host string) (model.ServiceName, bool) {
	for i := range state.Services {
		svc := state.Services[i]
		if slices.ContainsFunc(svc.HTTP, func(h model.HTTPHost) bool { return h.Host == host }) {
			return svc.Name, true
		}
	}
	return model.ServiceName{}, false
}

// Check looks at the records at the resolver and changes nothing.
func (s *Store) Check(ctx context.Context, site Site, host string) (Result, error) {
	d, err := s.find(host)
	if err != nil {
		return Result{}, err
	}
	resolver := site.State.Settings.Domains.Resolver
	records := look(ctx, question{resolver, s.cfg.Timeout}, wanted(d, site))
	return Result{Domain: d, Records: records, Asked: resolver}, nil
}

// Confirm binds the domain if its records are as wanted; if they are not, the
// result is not OK and nothing is bound. One that is confirmed stays so,
// whatever its records say now.
func (s *Store) Confirm(ctx context.Context, site Site, host string) (Result, error) {
	r, err := s.Check(ctx, site, host)
	if err != nil || !r.Domain.Confirmed.IsZero() || !r.OK() {
		return r, err
	}
	if other, taken := holder(site.State, r.Domain.Host); taken && other != r.Domain.Service {
		return Result{}, fmt.Errorf("%w: host %s is served by %s by now, as its config says", ErrConflict, r.Domain.Host, other)
	}
	d := r.Domain
	d.Confirmed = s.cfg.Now().UTC()
	if err := s.change(r.Domain, &d); err != nil {
		return Result{}, err
	}
	r.Domain, r.Changed = d, true
	return r, nil
}

// Switch turns a confirmed domain off, or on again without another look at its
// records.
func (s *Store) Switch(host string, on bool) (Result, error) {
	before, err := s.find(host)
	if err != nil {
		return Result{}, err
	}
	if before.Confirmed.IsZero() {
		return Result{}, fmt.Errorf("%w: %s is not confirmed yet, so it is not served; \"fairlead domain confirm %s\" does that", ErrConflict, before.Host, before.Host)
	}
	d := before
	d.Off = !on
	if d == before {
		return Result{Domain: d}, nil
	}
	return Result{Domain: d, Changed: true}, s.change(before, &d)
}

// Remove forgets a domain; to have it again is to confirm it again.
func (s *Store) Remove(host string) (Result, error) {
	d, err := s.find(host)
	if err != nil {
		return Result{}, err
	}
	return Result{Domain: d, Changed: true}, s.change(d, nil)
}
