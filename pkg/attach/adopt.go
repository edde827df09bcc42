// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// adopt takes over the pinned links of an agent before.
func (t *Target) adopt() error {
	links, err := t.kernel.links.List()
	if err != nil {
		return err
	}
	live := make(map[uint32]nexthop.Link, len(links))
	for _, l := range links {
		live[l.Index] = l
	}
	pins, err := loadPins(t.cfg.PinDir)
	if err != nil {
		return err
	}
	for _, p := range pins {
		if t.adoptLink(p, live) {
			t.cfg.Log.Debug("adopted link", "pin", p.path)
			continue
		}
		t.cfg.Log.Info("removing stale pin", "pin", p.path)
		if err := p.remove(); err != nil {
			return err
		}
	}
	m, err := marks(t.cfg.PinDir)
	if err != nil {
		return err
	}
	for index := range m {
		if _, ok := live[index]; !ok {
			if err := unmarkQdisc(t.cfg.PinDir, index); err != nil {
				return err
			}
		}
	}
	return nil
}

// adoptLink takes one link over if it is attached in this network namespace
// to an interface that lives, or to a cgroup.
func (t *Target) adoptLink(p *pinned, live map[uint32]nexthop.Link) bool {
	info, err := p.link.Info()
	if err != nil {
		return false
	}
	switch {
	case info.XDP() != nil:
		l, ok := live[info.XDP().Ifindex]
		// The kernel tells the index as seen in the namespace of the
		// interface, so the interface itself is asked too.
		if !ok || l.XDPProg != uint32(info.Program) || t.adopted(l).xdp != nil {
			return false
		}
		t.adopted(l).xdp = p
		return true
	case info.TCX() != nil:
		l, ok := live[info.TCX().Ifindex]
		if !ok || !hasTCX(l.Index, info.ID) || t.adopted(l).tcx != nil {
			return false
		}
		t.adopted(l).tcx = p
		return true
	case info.Cgroup() != nil:
		at := ebpf.AttachType(info.Cgroup().AttachType)
		t.cgroup.links[at] = append(t.cgroup.links[at], p)
		return true
	}
	return false
}

func (t *Target) adopted(l nexthop.Link) *iface {
	i, ok := t.ifaces[l.Index]
	if !ok {
		i = &iface{Link: l, slot: t.slots.take(t.oldSlot(l.Index))}
		t.ifaces[l.Index] = i
	}
	return i
}

// adoptFilters notes which interfaces carry a clsact filter of ours, also those
// that carry nothing else, so that they are released if they are not wanted.
func (t *Target) adoptFilters(links []nexthop.Link, filters map[uint32]*filter) {
	for _, l := range links {
		if f := filters[l.Index]; f != nil || t.ifaces[l.Index] != nil {
			t.adopted(l).filter = f
		}
	}
}

// hasTCX tells whether a link is among those of an interface's ingress.
func hasTCX(ifindex uint32, id link.ID) bool {
	r, err := link.QueryPrograms(link.QueryOptions{Target: int(ifindex), Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return false
	}
	for _, p := range r.Programs {
		if got, ok := p.LinkID(); ok && got == id {
			return true
		}
	}
	return false
}
