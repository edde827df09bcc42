// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// errNoTCX is what a kernel before 6.6 means when it refuses tcx.
var errNoTCX = errors.New("this kernel has no tcx (Linux 6.6 brought it); set node.tc to auto or clsact")

// ensureTC makes an interface carry the TC program at ingress, one way only.
// The new way is attached before the old one is taken off: for a moment both
// run, in which the second sees only what the first passed on, unchanged.
func (t *Target) ensureTC(i *iface, mode string) error {
	if t.cfg.TC == nil {
		return errors.Join(t.dropTCX(i), t.dropFilter(i))
	}
	if mode == "tcx" || mode != "clsact" && !t.noTCX {
		err := t.ensureTCX(i)
		if err == nil {
			return t.dropFilter(i)
		}
		t.noTCX = errors.Is(err, link.ErrNotSupported)
		if t.noTCX && mode == "tcx" {
			return errNoTCX
		}
		if !t.noTCX {
			return err
		}
	}
	if err := t.ensureFilter(i); err != nil {
		return err
	}
	return t.dropTCX(i)
}

func (t *Target) ensureTCX(i *iface) error {
	if i.tcx != nil && i.tcx.on(i.Index) {
		return i.tcx.update(t.cfg.TC)
	}
	if err := t.dropTCX(i); err != nil {
		return err
	}
	l, err := t.attachTCX(link.TCXOptions{
		Interface: int(i.Index),
		Program:   t.cfg.TC,
		Attach:    ebpf.AttachTCXIngress,
		Anchor:    link.Head(), // a packet for a service is ours before anybody's
	})
	if err != nil {
		return err
	}
	p, err := pin(l, t.cfg.PinDir, ifacePin("tcx", i.Name, i.Index))
	if err != nil {
		return err
	}
	i.tcx = p
	t.cfg.Log.Info("attached TC program", "interface", i.Name, "by", "tcx")
	return nil
}

// dropTCX takes our tcx program off.
func (t *Target) dropTCX(i *iface) error {
	if i.tcx == nil {
		return nil
	}
	if err := i.tcx.remove(); err != nil {
		return fmt.Errorf("detach tcx program: %w", err)
	}
	i.tcx = nil
	t.cfg.Log.Info("detached TC program", "interface", i.Name, "by", "tcx")
	return nil
}

func (t *Target) ensureFilter(i *iface) error {
	id, err := programID(t.cfg.TC)
	if err != nil {
		return err
	}
	if i.filter != nil && i.filter.program == id {
		return nil
	}
	fresh := i.filter == nil
	f, err := t.kernel.putFilter(t.cfg.PinDir, i.Link, i.filter, t.cfg.TC)
	if err != nil {
		return err
	}
	i.filter = f
	if fresh {
		t.cfg.Log.Info("attached TC program", "interface", i.Name, "by", "clsact", "priority", f.prio)
	}
	return nil
}

// dropFilter takes our clsact filter off, and the qdisc if it was ours.
func (t *Target) dropFilter(i *iface) error {
	if i.filter == nil {
		return nil
	}
	if err := t.kernel.dropFilter(t.cfg.PinDir, i.Index, i.filter); err != nil {
		return fmt.Errorf("detach clsact filter: %w", err)
	}
	i.filter = nil
	t.cfg.Log.Info("detached TC program", "interface", i.Name, "by", "clsact")
	return nil
}
