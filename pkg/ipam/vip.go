// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// claim is the wish of one service in one family. vip points into the state:
// valid at first when the config asks for an address.
type claim struct {
	name    string
	vip     *netip.Addr
	settled bool
}

// Complete fills in the virtual IPs of every service of the state, from
// network.services and network.services6. What the config asks for comes
// first, then what a service had before, then free addresses. A service that
// cannot get an address of a family stays without; the joined error says why,
// for each. An address of this host is nobody's: all ports that no service has
// would be refused there. Services that are not in the state are marked as gone.
//
// It fits source.Config.Complete and must be the pool's only user.
func (p *Pool) Complete(s *model.State) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	localErr := p.lookLocal()
	var names []string
	var v4, v6 []claim
	for i := range s.Services {
		svc := &s.Services[i]
		name := svc.Name.String()
		names = append(names, name)
		v4 = append(v4, claim{name: name, vip: &svc.VIP4})
		v6 = append(v6, claim{name: name, vip: &svc.VIP6})
	}
	p.retain(names)
	net := s.Settings.Network
	err := errors.Join(p.settle(net.Services, v4), p.settle(net.Services6, v6))
	p.save()
	return errors.Join(err, localErr, p.saveErr)
}

// lookLocal lists the host's addresses anew; what cannot be listed is as it
// was.
func (p *Pool) lookLocal() error {
	if p.cfg.Local == nil {
		return nil
	}
	local, err := p.cfg.Local()
	if err != nil {
		return fmt.Errorf("compare virtual IPs with this host's addresses: %w", err)
	}
	p.local = local
	return nil
}

func (p *Pool) settle(prefix netip.Prefix, claims []claim) error {
	errs := p.settleExplicit(claims)
	if !prefix.IsValid() {
		return errors.Join(errs...)
	}
	prefix = prefix.Masked()
	for _, had := range []bool{true, false} { // nobody new takes what another one had
		for i := range claims {
			c := &claims[i]
			if c.settled || had && !p.has(prefix, c.name) {
				continue
			}
			a, err := p.allocate(prefix, c.name)
			if err != nil {
				errs = append(errs, fmt.Errorf("service %s: no vip: %w", c.name, err))
			}
			*c.vip, c.settled = a, true
		}
	}
	return errors.Join(errs...)
}

// settleExplicit serves the claims that name an address. Of several claims on
// one address the one that has it already wins, else the first.
func (p *Pool) settleExplicit(claims []claim) (errs []error) {
	for i := range claims {
		if c := &claims[i]; p.isLocal(*c.vip) {
			errs = append(errs, fmt.Errorf("service %s: vip %s is an address of this host, on interface %s: "+
				"every other port of it, ssh included, would be refused to the network, so the service does not get it; "+
				"choose a vip that no host has, or use expose with port to serve on the host's own address", c.name, *c.vip, p.local[*c.vip]))
			*c.vip, c.settled = netip.Addr{}, true
		}
	}
	winner := map[netip.Addr]string{}
	for _, c := range claims {
		if _, claimed := winner[*c.vip]; !claimed || p.holds(c.name, *c.vip) {
			winner[*c.vip] = c.name
		}
	}
	for i := range claims {
		c := &claims[i]
		if !c.vip.IsValid() {
			continue
		}
		c.settled = true
		if w := winner[*c.vip]; w != c.name {
			errs = append(errs, fmt.Errorf("service %s: vip %s is taken by service %s", c.name, c.vip, w))
			*c.vip = netip.Addr{}
			continue
		}
		p.assign(*c.vip, entry{owner: c.name, fixed: true})
	}
	return errs
}

// holds tells whether the owner asked for the address before and got it.
func (p *Pool) holds(owner string, a netip.Addr) bool {
	e := p.entries[a]
	return e.owner == owner && e.fixed
}

// has tells whether the owner has, or had, an address in the prefix.
func (p *Pool) has(prefix netip.Prefix, owner string) bool {
	a, ok := p.owners[ownerKey{owner, prefix.Addr().Is4()}]
	return ok && prefix.Contains(a) && !p.isLocal(a)
}
