// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/domain"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

const noDomains = "no service has a host: give one \"expose: - http\", or bind a domain of your own with \"fairlead domain add HOST --service PROJECT/USER\""

// domainList shows every host of the HTTP front, and the own domains that are
// not among them.
func (a *Agent) domainList() admin.Domains {
	state := a.engine.state()
	own := map[string]domain.Domain{}
	for _, d := range a.parts.domains.List() {
		own[d.Host] = d
	}
	certificates := map[string]autocert.State{}
	for _, c := range a.parts.certificates() {
		certificates[c.Host] = c.State
		for _, host := range c.Covers {
			certificates[host] = c.State
		}
	}
	out := admin.Domains{Note: noDomains}
	for i := range state.Services {
		svc := state.Services[i]
		for _, h := range svc.HTTP {
			d := admin.Domain{Host: h.Host, Service: svc.Name.String(), Kind: "config", State: "on", Certificate: string(certificates[h.Host])}
			if h.Free {
				d.Kind = "free"
			}
			if x, bound := own[h.Host]; bound && x.Service == svc.Name {
				d.Kind = "own"
				delete(own, h.Host)
			}
			out.Domains = append(out.Domains, d)
		}
	}
	for _, d := range own {
		what, note := absent(state, d)
		out.Domains = append(out.Domains, admin.Domain{Host: d.Host, Service: d.Service.String(), Kind: "own", State: what, Note: note})
	}
	slices.SortStableFunc(out.Domains, func(x, y admin.Domain) int { return strings.Compare(x.Host, y.Host) })
	return out
}

// absent says why an own domain is not served.
func absent(state *model.State, d domain.Domain) (what, note string) {
	_, there := state.Service(d.Service)
	switch {
	case d.Confirmed.IsZero():
		return "unconfirmed", fmt.Sprintf("\"fairlead domain check %s\" shows the records to set", d.Host)
	case d.Off:
		return "off", fmt.Sprintf("\"fairlead domain on %s\" serves it again", d.Host)
	case !there:
		return "no service", fmt.Sprintf("the config has no service %s any more", d.Service)
	}
	return "conflict", "the config gives this host to another service, or the service has no TCP port: see the problems in \"fairlead status\""
}

// domain does a verb on an own domain.
func (a *Agent) domain(ctx context.Context, r admin.DomainRequest) (admin.DomainResult, error) {
	res, err := a.domainVerb(ctx, r)
	switch {
	case errors.Is(err, domain.ErrUnknown):
		return admin.DomainResult{}, &admin.Refusal{Code: http.StatusNotFound, Err: err}
	case errors.Is(err, domain.ErrConflict):
		return admin.DomainResult{}, &admin.Refusal{Code: http.StatusConflict, Err: err}
	case err != nil:
		return admin.DomainResult{}, err
	}
	d := res.Domain
	out := admin.DomainResult{
		Host: d.Host, Service: d.Service.String(), Confirmed: !d.Confirmed.IsZero(), Off: d.Off, Changed: res.Changed, OK: res.OK(),
	}
	if res.Asked.IsValid() {
		out.Resolver = res.Asked.String()
	}
	for _, x := range res.Records {
		out.Records = append(out.Records, admin.DomainRecord{
			Type: x.Type, Name: x.Name, Want: x.Want, Optional: x.Optional, Found: x.Found, OK: x.OK, Note: x.Note,
		})
	}
	return out, nil
}

func (a *Agent) domainVerb(ctx context.Context, r admin.DomainRequest) (domain.Result, error) {
	store := a.parts.domains
	switch r.Verb {
	case "on", "off":
		return store.Switch(r.Host, r.Verb == "on")
	case "remove":
		return store.Remove(r.Host)
	}
	site, err := a.site()
	if err != nil {
		return domain.Result{}, err
	}
	switch r.Verb {
	case "add":
		name, err := serviceNamed(site.State, r.Service)
		if err != nil {
			return domain.Result{}, err
		}
		return store.Add(site, r.Host, name)
	case "check":
		return store.Check(ctx, site, r.Host)
	case "confirm":
		return store.Confirm(ctx, site, r.Host)
	}
	return domain.Result{}, fmt.Errorf("verb %q: want add, check, confirm, on, off or remove", r.Verb)
}

// site is where own domains must lead to.
func (a *Agent) site() (domain.Site, error) {
	state := a.engine.state()
	if state.Generation == 0 {
		return domain.Site{}, &admin.Refusal{Code: http.StatusServiceUnavailable, Err: errors.New("there is no desired state yet; try again in a moment")}
	}
	addrs := state.Settings.Node.Addresses
	if addrs == nil {
		var err error
		if addrs, err = a.parts.nodeAddrs(state.Settings.Node.Interfaces); err != nil {
			return domain.Site{}, fmt.Errorf("find the node's public addresses: %w", err)
		}
	}
	if len(addrs) == 0 {
		return domain.Site{}, errors.New("this node has no public address that a domain could lead to: name one in node.addresses")
	}
	return domain.Site{State: state, Addresses: addrs}, nil
}

// serviceNamed finds a service by PROJECT/USER, transliterated or as its owner
// wrote it.
func serviceNamed(state *model.State, name string) (model.ServiceName, error) {
	for i := range state.Services {
		if svc := state.Services[i]; svc.Name.String() == name || svc.Title != "" && strings.EqualFold(svc.Title, name) {
			return svc.Name, nil
		}
	}
	return model.ServiceName{}, fmt.Errorf("%w: no service %q; \"fairlead services\" lists them", domain.ErrUnknown, name)
}
