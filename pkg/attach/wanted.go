// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// The roles of an interface.
const (
	roleNIC      = "nic"      // clients' packets arrive here
	roleWorkload = "workload" // leads to a replica
)

// want is an interface that shall carry programs.
type want struct {
	nexthop.Link
	role string
}

// wanted lists the interfaces a state asks for, by index, and those it names
// that are not there.
func (t *Target) wanted(s *model.State, links []nexthop.Link) (wants []want, missing []Interface, err error) {
	byIndex := make(map[uint32]nexthop.Link, len(links))
	byName := make(map[string]nexthop.Link, len(links))
	for _, l := range links {
		byIndex[l.Index], byName[l.Name] = l, l
	}
	roles := map[uint32]string{}
	for index := range t.workloads(s) {
		roles[index] = roleWorkload
	}
	if s.Settings.Node.Interfaces == nil {
		defaults, err := t.kernel.links.Default()
		if err != nil {
			return nil, nil, err
		}
		for _, index := range defaults {
			roles[index] = roleNIC
		}
	}
	for _, name := range s.Settings.Node.Interfaces {
		l, ok := byName[name]
		if !ok {
			missing = append(missing, Interface{
				Name: name, Role: roleNIC,
				Error: "there is no interface of this name; it is attached to as soon as it appears (node.interfaces names it; interfaces here: " + names(links) + ")",
			})
			continue
		}
		roles[l.Index] = roleNIC
	}
	for index, role := range roles {
		if l, ok := byIndex[index]; ok {
			wants = append(wants, want{Link: l, role: role})
		}
	}
	slices.SortFunc(wants, func(a, b want) int { return int(a.Index) - int(b.Index) })
	return wants, missing, nil
}

// workloads lists the interfaces that lead to a backend.
func (t *Target) workloads(s *model.State) map[uint32]bool {
	found := map[uint32]bool{}
	for i := range s.Services {
		for _, b := range s.Services[i].Backends {
			for _, a := range b.Addrs() {
				// Traffic to the node's own addresses never leaves through an interface.
				if hop := t.cfg.Hops.Lookup(a); hop.IfIndex != 0 && !hop.Local {
					found[hop.IfIndex] = true
				}
			}
		}
	}
	return found
}

func names(links []nexthop.Link) string {
	var all []string
	for _, l := range links {
		if len(all) == 12 {
			all = append(all, "…")
			break
		}
		all = append(all, l.Name)
	}
	return strings.Join(all, ", ")
}

// xdpModes lists the XDP modes to try on a NIC, best first; none means TC
// only. Virtual devices get TC: XDP there costs the segmentation offloads and
// needs the sender's checksums. Generic is for drivers without XDP, which is
// what real hardware and bonds of it may have.
func xdpModes(attach string, l nexthop.Link) []string {
	switch attach {
	case "xdp-native":
		return []string{"native"}
	case "xdp-generic":
		return []string{"generic"}
	case "tc":
		return nil
	}
	if l.Loopback || l.Kind != "" && l.Kind != "bond" {
		return nil
	}
	return []string{"native", "generic"}
}
