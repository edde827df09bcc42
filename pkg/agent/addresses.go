// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// nodeAddrs lists the global addresses of the named interfaces, or, for nil,
// of those of the default routes. A name that does not exist has none: attach
// reports it.
func nodeAddrs(links *nexthop.Links, names []string) ([]netip.Addr, error) {
	var indexes []uint32
	if names == nil {
		var err error
		if indexes, err = links.Default(); err != nil {
			return nil, err
		}
	} else {
		all, err := links.List()
		if err != nil {
			return nil, err
		}
		for _, l := range all {
			if slices.Contains(names, l.Name) {
				indexes = append(indexes, l.Index)
			}
		}
	}
	var addrs []netip.Addr
	var errs []error
	for _, i := range indexes {
		found, err := links.Addrs(i)
		addrs, errs = append(addrs, found...), append(errs, err)
	}
	return addrs, errors.Join(errs...)
}

// foundAddresses tells whether a state's node ports are on addresses that are
// looked up on the interfaces.
func foundAddresses(s *model.State) bool {
	return s.Settings.Node.Addresses == nil &&
		slices.ContainsFunc(s.Services, func(svc *model.Service) bool { return len(svc.NodePorts) > 0 })
}

// renewal is a source that wants nothing. It publishes that again when the
// host's addresses changed: the state is then completed anew, as a virtual IP
// must be none of them.
type renewal struct {
	mu      sync.Mutex
	publish func(source.Part) // nil: Run does not run
}

// Name is "addresses".
func (*renewal) Name() string { return "addresses" }

// Run publishes an empty part.
func (r *renewal) Run(ctx context.Context, publish func(source.Part)) error {
	r.mu.Lock()
	r.publish = publish
	publish(source.Part{})
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.publish = nil
	r.mu.Unlock()
	return nil
}

func (r *renewal) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.publish != nil {
		r.publish(source.Part{})
	}
}

// follow has those targets look again that a change of the host concerns, and
// the state completed anew if its addresses may be others.
func (e *engine) follow(c nexthop.Change, plane, links reconcile.Target, again func()) {
	if c.Hops || c.Addrs && foundAddresses(e.state()) {
		e.kick(plane)
	}
	if c.Hops || c.Tracked {
		e.kick(links)
	}
	if c.Addrs {
		again()
	}
}

// ownAddress keeps the name server's address out of what services get: it is
// one of this host's from before it listens there.
type ownAddress struct {
	local func() (map[netip.Addr]string, error)
	dns   netip.Addr // of the state that is being completed; invalid: none
}

// before notes the address of a state and then completes it.
func (o *ownAddress) before(complete func(*model.State) error) func(*model.State) error {
	return func(s *model.State) error {
		a, _ := netip.ParseAddrPort(s.Settings.Listen.DNS) // ":53" is no address
		o.dns = a.Addr()
		return complete(s)
	}
}

// list is the host's addresses; complete asks for them.
func (o *ownAddress) list() (map[netip.Addr]string, error) {
	local, err := o.local()
	if err == nil && o.dns.IsValid() && local[o.dns] == "" {
		local[o.dns] = "lo (listen.dns)"
	}
	return local, err
}
