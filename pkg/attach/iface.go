// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// iface is an interface that carries something of ours. Its fields follow the
// kernel: they change after it accepted.
type iface struct {
	nexthop.Link
	role  string
	slot  uint8 // 0: none yet
	flags uint8
	mtu   uint16 // as the IfaceMap has it
	set   bool   // the IfaceMap holds slot, flags and mtu

	xdp        *pinned
	xdpSetting string    // the node.attach under which xdp was attached; empty: adopted
	xdpRefused string    // the setting under which XDP was refused
	xdpTried   time.Time // when
	xdpNote    string
	xdpError   string

	tcx    *pinned
	filter *filter // our clsact filter
	tcErr  error
}

// ensure makes one wanted interface carry what it should. TC comes first: it
// does all that XDP does, so XDP may come and go over it.
func (t *Target) ensure(w want, have *filter, node model.Node) error {
	i, ok := t.ifaces[w.Index]
	if !ok {
		i = &iface{}
		t.ifaces[w.Index] = i
	}
	i.Link, i.role, i.filter = w.Link, w.role, have
	if err := t.mapIface(i); err != nil {
		return err
	}
	i.tcErr = t.ensureTC(i, node.TC)
	if i.tcErr != nil {
		i.tcErr = fmt.Errorf("attach TC program to %s: %w", i.Name, i.tcErr)
	}
	var modes []string
	if i.role == roleNIC && t.cfg.XDP != nil {
		modes = xdpModes(node.Attach, i.Link)
	}
	return errors.Join(i.tcErr, t.ensureXDP(i, node.Attach, modes))
}

// mapIface tells the programs of the interface before one runs there.
func (t *Target) mapIface(i *iface) error {
	if i.slot == 0 {
		i.slot = t.slots.take(t.oldSlot(i.Index))
	}
	var flags uint8
	if t.kernel.links.XDPXmit(i.Link) {
		flags |= IfaceXDPXmit
	}
	if i.Peer {
		flags |= IfacePeer
	}
	mtu := uint16(min(i.MTU, math.MaxUint16))
	if i.set && flags == i.flags && mtu == i.mtu {
		return nil
	}
	if err := t.cfg.Ifaces.SetIface(i.Index, i.slot, flags, mtu); err != nil {
		return fmt.Errorf("give interface %s its counter slot: %w", i.Name, err)
	}
	i.set, i.flags, i.mtu = true, flags, mtu
	return nil
}

// oldSlot is the slot an agent before gave the interface, 0 if unknown.
func (t *Target) oldSlot(ifindex uint32) uint8 {
	m, ok := t.cfg.Ifaces.(interface {
		Iface(ifindex uint32) (slot, flags uint8, err error)
	})
	if !ok {
		return 0
	}
	slot, _, err := m.Iface(ifindex)
	if err != nil {
		return 0
	}
	return slot
}

// release takes everything of ours off an interface.
func (t *Target) release(i *iface) error {
	err := errors.Join(t.dropXDP(i), t.dropTCX(i), t.dropFilter(i))
	if err != nil {
		return fmt.Errorf("detach from %s: %w", i.Name, err)
	}
	return t.forget(i)
}

// forget drops the bookkeeping of an interface that carries nothing.
func (t *Target) forget(i *iface) error {
	if i.set {
		if err := t.cfg.Ifaces.ClearIface(i.Index); err != nil {
			return fmt.Errorf("take the counter slot of %s: %w", i.Name, err)
		}
	}
	t.slots.free(i.slot)
	delete(t.ifaces, i.Index)
	return nil
}

// prune forgets interfaces that are gone: the kernel has taken the programs
// off, but pins keep the empty links.
func (t *Target) prune(links []nexthop.Link) {
	live := map[uint32]bool{}
	for _, l := range links {
		live[l.Index] = true
	}
	for index, i := range t.ifaces {
		if live[index] {
			continue
		}
		t.cfg.Log.Info("interface gone", "interface", i.Name, "index", index)
		if err := errors.Join(i.xdp.remove(), i.tcx.remove(), unmarkQdisc(t.cfg.PinDir, index), t.forget(i)); err != nil {
			t.cfg.Log.Warn("forget interface", "interface", i.Name, "error", err)
		}
	}
}
