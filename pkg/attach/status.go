// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Interface is what a person is told about an interface: what it carries, as
// the kernel answered at the last pass.
type Interface struct {
	Name  string `json:"name"`
	Index uint32 `json:"index,omitempty"` // 0: there is none of this name
	Slot  uint8  `json:"slot,omitempty"`  // 1…254 its own counters, 255 those shared by the rest
	Role  string `json:"role"`            // "nic" | "workload"
	XDP   string `json:"xdp,omitempty"`   // "native" | "generic"
	TC    string `json:"tc,omitempty"`    // "tcx" | "clsact"
	Note  string `json:"note,omitempty"`  // why it is not better
	Error string `json:"error,omitempty"` // why it is not as asked
}

// Interfaces lists the interfaces that carry programs or should, by name.
func (t *Target) Interfaces() []Interface {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.shown)
}

// Cgroup tells which cgroup carries which hooks; an empty path: none. The note
// says why, or which hooks the kernel refused.
func (t *Target) Cgroup() (path string, hooks []string, note string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cgPath, slices.Clone(t.cgHook), t.cgNote
}

// publish shows the bookkeeping to readers, and the interfaces that are asked
// for and carry nothing.
func (t *Target) publish(unserved []Interface) {
	shown := slices.Clone(unserved)
	for _, i := range t.ifaces {
		shown = append(shown, i.show())
	}
	slices.SortFunc(shown, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	var hooks, notes []string
	for _, at := range slices.Sorted(maps.Keys(t.cgroup.links)) {
		if len(t.cgroup.links[at]) > 0 {
			hooks = append(hooks, hookName(at))
		}
	}
	if t.cgroup.note != "" {
		notes = append(notes, t.cgroup.note)
	}
	for _, at := range slices.Sorted(maps.Keys(t.cgroup.refused)) {
		notes = append(notes, t.cgroup.refused[at].words)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shown, t.cgPath, t.cgHook, t.cgNote = shown, t.cgroup.path, hooks, strings.Join(notes, "; ")
}

func (i *iface) show() Interface {
	s := Interface{Name: i.Name, Index: i.Index, Slot: i.slot, Role: i.role}
	if i.xdp != nil {
		s.XDP = i.XDPMode
	}
	switch {
	case i.tcx != nil:
		s.TC = "tcx"
	case i.filter != nil:
		s.TC = "clsact"
	}
	if s.Role == "" { // adopted, nothing known about it yet
		s.Role = roleWorkload
		if i.xdp != nil {
			s.Role = roleNIC
		}
	}
	notes := []string{i.xdpNote}
	if i.filter != nil && i.filter.prio > 1 {
		notes = append(notes, fmt.Sprintf("other filters run before ours (priority %d)", i.filter.prio))
	}
	if i.slot == sharedSlot {
		notes = append(notes, "more than 254 interfaces: packets are counted together with others'")
	}
	s.Note = strings.Join(slices.DeleteFunc(notes, func(n string) bool { return n == "" }), "; ")
	var errs []string
	if i.tcErr != nil {
		errs = append(errs, i.tcErr.Error())
	}
	if i.xdpError != "" {
		errs = append(errs, i.xdpError)
	}
	s.Error = strings.Join(errs, "; ")
	return s
}
