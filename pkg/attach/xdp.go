// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// refusedFor is how long something the kernel refused is not tried again.
const refusedFor = time.Minute

// ensureXDP makes a NIC carry the XDP program in the first of the modes that
// works; no modes: none. What the driver refuses is told in the interface's
// status, for TC carries the packets then; the error is for what may pass.
func (t *Target) ensureXDP(i *iface, setting string, modes []string) error {
	if len(modes) == 0 {
		i.xdpNote, i.xdpError, i.xdpRefused = "", "", ""
		return t.dropXDP(i)
	}
	if i.xdp != nil && !i.xdp.on(i.Index) {
		// Somebody forced it off, or the driver did: start anew.
		if err := t.dropXDP(i); err != nil {
			return err
		}
	}
	if i.xdp != nil {
		mode := i.XDPMode
		// A worse mode stays if it was the best that worked under this setting.
		if mode == modes[0] || slices.Contains(modes, mode) && (i.xdpSetting == "" || i.xdpSetting == setting) {
			return t.updateXDP(i)
		}
		if err := t.dropXDP(i); err != nil {
			return err
		}
		i.XDPProg, i.XDPMode = 0, ""
	}
	if i.XDPProg != 0 {
		i.xdpNote = foreignXDP(i.XDPProg, i.XDPMode)
		i.xdpError = ""
		if setting == "xdp-native" || setting == "xdp-generic" {
			i.xdpNote, i.xdpError = "", i.xdpNote
		}
		return nil
	}
	if i.xdpRefused == setting && time.Since(i.xdpTried) < refusedFor {
		return nil
	}
	return t.attachXDP(i, setting, modes)
}

func (t *Target) attachXDP(i *iface, setting string, modes []string) error {
	var refused []string
	i.xdpNote, i.xdpError, i.xdpRefused = "", "", ""
	for _, mode := range modes {
		p, err := t.linkXDP(i, mode)
		if err != nil {
			refused = append(refused, fmt.Sprintf("%s XDP is refused: %s", mode, xdpReason(err)))
			continue
		}
		i.xdp, i.xdpSetting = p, setting
		if now, err := t.kernel.links.ByIndex(i.Index); err == nil {
			i.Link = now
		}
		t.cfg.Log.Info("attached XDP program", "interface", i.Name, "mode", i.XDPMode)
		i.xdpNote = strings.Join(refused, "; ")
		return nil
	}
	i.xdpRefused, i.xdpTried = setting, time.Now()
	words := strings.Join(refused, "; ") + "; the TC program does the work instead"
	if setting == "xdp-native" || setting == "xdp-generic" {
		i.xdpError = words
	} else {
		i.xdpNote = words
	}
	t.cfg.Log.Warn("XDP program not attached", "interface", i.Name, "reason", words)
	return nil
}

// updateXDP replaces the program in place. The kernel does not replace one that
// knows frames of several buffers by one that does not, nor the other way round.
func (t *Target) updateXDP(i *iface) error {
	err := i.xdp.update(t.cfg.XDP)
	if !wantsFrags(err) || t.cfg.XDPFrags == nil {
		return err
	}
	prog, fragsErr := t.cfg.XDPFrags()
	if fragsErr != nil {
		return errors.Join(err, fragsErr)
	}
	return i.xdp.update(prog)
}

// wantsFrags tells whether a driver may have refused a program because it does
// not know frames of several buffers.
func wantsFrags(err error) bool { return errors.Is(err, unix.ERANGE) || errors.Is(err, unix.EINVAL) }

func (t *Target) linkXDP(i *iface, mode string) (*pinned, error) {
	flags := link.XDPDriverMode
	if mode == "generic" {
		flags = link.XDPGenericMode
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: t.cfg.XDP, Interface: int(i.Index), Flags: flags})
	if mode == "native" && t.cfg.XDPFrags != nil && wantsFrags(err) {
		if prog, fragsErr := t.cfg.XDPFrags(); fragsErr == nil {
			l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: int(i.Index), Flags: flags})
		}
	}
	if err != nil {
		return nil, err
	}
	return pin(l, t.cfg.PinDir, ifacePin("xdp", i.Name, i.Index))
}

// dropXDP takes our XDP program off.
func (t *Target) dropXDP(i *iface) error {
	if i.xdp == nil {
		return nil
	}
	if err := i.xdp.remove(); err != nil {
		return fmt.Errorf("detach XDP program: %w", err)
	}
	i.xdp, i.xdpSetting = nil, ""
	t.cfg.Log.Info("detached XDP program", "interface", i.Name)
	return nil
}

// foreignXDP says whose program holds the hook.
func foreignXDP(id uint32, mode string) string {
	name := ""
	if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id)); err == nil {
		if info, err := p.Info(); err == nil && info.Name != "" {
			name = fmt.Sprintf(" %q", info.Name)
		}
		_ = p.Close()
	}
	return fmt.Sprintf("another %s XDP program (id %d%s) is attached and left alone; the TC program does the work instead", mode, id, name)
}

func xdpReason(err error) string {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, link.ErrNotSupported):
		return "the driver has no XDP"
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return "another program holds the hook"
	case errors.Is(err, unix.EPERM):
		return "CAP_NET_ADMIN and CAP_BPF are needed; run as root"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return fmt.Sprintf("the driver does not take it as the interface is set up (%v); try an MTU of 1500 and LRO off", err)
	}
	return err.Error()
}
