// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// claim is the wish of one service in one family. vip is valid at first when
// the config asks for an address, and at the end what the service has.
type claim struct {
	name    string
	vip     netip.Addr
	settled bool
}

// completion is a state as it came and as it was completed.
type completion struct {
	network model.Network
	local   map[netip.Addr]string
	raw     []*model.Service
	done    []*model.Service
}

// Complete fills in the virtual IPs of every service of the state, from
// network.services and network.services6. What the config asks for comes
// first, then what a service had before, then free addresses. A service that
// cannot get an address of a family stays without; the joined error says why,
// for each. An address of this host is nobody's: all ports that no service has
// would be refused there. Services that are not in the state are marked as gone.
//
// Services that get an address are replaced by completed copies, the same as
// last time for those that came as last time. It fits source.Config.Complete
// and must be the pool's only user.
func (p *Pool) Complete(s *model.State) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	localErr := p.lookLocal()
	raw := slices.Clone(s.Services)
	if p.completeChanged(s) {
		p.last.raw, p.last.done = raw, slices.Clone(s.Services)
		return localErr
	}
	names := make([]string, len(raw))
	v4, v6 := make([]claim, len(raw)), make([]claim, len(raw))
	for i, svc := range raw {
		names[i] = svc.Name.String()
		v4[i], v6[i] = claim{name: names[i], vip: svc.VIP4}, claim{name: names[i], vip: svc.VIP6}
	}
	p.retain(names)
	net := s.Settings.Network
	err := errors.Join(p.settle(net.Services, v4), p.settle(net.Services6, v6))
	p.save()
	p.replace(s, v4, v6)
	err = errors.Join(err, localErr, p.saveErr)
	p.last = completion{}
	if err == nil {
		p.last = completion{network: net, local: p.local, raw: raw, done: slices.Clone(s.Services)}
	}
	return err
}

// completeChanged completes a state in which nothing that addresses depend on
// differs from the last one; false: something may.
func (p *Pool) completeChanged(s *model.State) bool {
	last := &p.last
	if p.dirty || len(last.raw) != len(s.Services) || last.network != s.Settings.Network || !maps.Equal(last.local, p.local) {
		return false
	}
	for was, is := range model.Changes(&model.State{Services: last.raw}, s) {
		if was == nil || is == nil || was.VIP4 != is.VIP4 || was.VIP6 != is.VIP6 {
			return false
		}
	}
	for i, svc := range s.Services { // the names are the same, and so is their order
		done := last.done[i]
		if svc != last.raw[i] {
			done = withVIPs(svc, done.VIP4, done.VIP6)
		}
		s.Services[i] = done
	}
	return true
}

// replace puts the completed services into the state.
func (p *Pool) replace(s *model.State, v4, v6 []claim) {
	old := 0
	for i, svc := range s.Services {
		for old < len(p.last.raw) && p.last.raw[old].Name.Compare(svc.Name) < 0 {
			old++
		}
		if old < len(p.last.raw) && p.last.raw[old] == svc {
			if done := p.last.done[old]; done.VIP4 == v4[i].vip && done.VIP6 == v6[i].vip {
				s.Services[i] = done
				continue
			}
		}
		s.Services[i] = withVIPs(svc, v4[i].vip, v6[i].vip)
	}
}

// withVIPs is the service with these addresses, itself if it has them.
func withVIPs(svc *model.Service, v4, v6 netip.Addr) *model.Service {
	if svc.VIP4 == v4 && svc.VIP6 == v6 {
		return svc
	}
	out := *svc
	out.VIP4, out.VIP6 = v4, v6
	return &out
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
			c.vip, c.settled = a, true
		}
	}
	return errors.Join(errs...)
}

// settleExplicit serves the claims that name an address. Of several claims on
// one address the one that has it already wins, else the first.
func (p *Pool) settleExplicit(claims []claim) (errs []error) {
	for i := range claims {
		if c := &claims[i]; p.isLocal(c.vip) {
			errs = append(errs, fmt.Errorf("service %s: vip %s is an address of this host, on interface %s: "+
				"every other port of it, ssh included, would be refused to the network, so the service does not get it; "+
				"choose a vip that no host has, or use expose with port to serve on the host's own address", c.name, c.vip, p.local[c.vip]))
			c.vip, c.settled = netip.Addr{}, true
		}
	}
	winner := map[netip.Addr]string{}
	for _, c := range claims {
		if _, claimed := winner[c.vip]; !claimed || p.holds(c.name, c.vip) {
			winner[c.vip] = c.name
		}
	}
	for i := range claims {
		c := &claims[i]
		if !c.vip.IsValid() {
			continue
		}
		c.settled = true
		if w := winner[c.vip]; w != c.name {
			errs = append(errs, fmt.Errorf("service %s: vip %s is taken by service %s", c.name, c.vip, w))
			c.vip = netip.Addr{}
			continue
		}
		p.assign(c.vip, entry{owner: c.name, fixed: true})
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
