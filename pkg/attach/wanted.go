// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"cmp"
	"fmt"
	"reflect"
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

// wanted lists the interfaces a state asks for, by index, and those it asks
// for that nothing can be attached to.
func (t *Target) wanted(s *model.State, links []nexthop.Link, tracked map[uint32]bool) (wants []want, unserved []Interface, err error) {
	byName := make(map[string]nexthop.Link, len(links))
	for _, l := range links {
		byName[l.Name] = l
	}
	roles := map[uint32]string{}
	for index := range tracked {
		roles[index] = roleWorkload
	}
	for index := range t.workloads(nil, s) {
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
			unserved = append(unserved, Interface{
				Name: name, Role: roleNIC,
				Error: "there is no interface of this name; it is attached to as soon as it appears (node.interfaces names it; interfaces here: " + names(links) + ")",
			})
			continue
		}
		roles[l.Index] = roleNIC
	}
	for _, l := range links {
		role, asked := roles[l.Index]
		switch {
		case asked && l.Raw:
			unserved = append(unserved, Interface{Name: l.Name, Index: l.Index, Role: role, Error: rawWords(l, role)})
		case asked:
			wants = append(wants, want{Link: l, role: role})
		}
	}
	return wants, unserved, nil
}

// rawWords says why nothing is attached to an interface whose packets the
// programs would take for foreign ones.
func rawWords(l nexthop.Link, role string) string {
	who := "clients that come in by it"
	if role == roleWorkload {
		who = "replicas behind it"
	}
	return fmt.Sprintf("no Ethernet header (it is of kind %s): not served, so %s are not; use an interface with Ethernet frames", cmp.Or(l.Kind, "unknown"), who)
}

// covered tells whether a state only differs from the last one in replicas
// that are behind interfaces which carry programs already. Which ones no
// longer lead to any is known when the data plane stops to track them.
func (t *Target) covered(last, s *model.State) bool {
	if last == nil || last.Generation == s.Generation || !reflect.DeepEqual(last.Settings.Node, s.Settings.Node) {
		return false
	}
	for index := range t.workloads(last, s) {
		if t.ifaces[index] == nil {
			return false
		}
	}
	return true
}

// workloads lists the interfaces that lead to a backend of a service that
// differs from the last state (nil: of any). The data plane tracks most of
// them already; but attach is told of a state first. New replicas are looked up
// anew: one may have the address of another that went a moment ago, and another
// interface.
func (t *Target) workloads(last, s *model.State) map[uint32]bool {
	found := map[uint32]bool{}
	if last != nil {
		t.cfg.Hops.Follow(model.NewAddrs(last, s), nil)
	}
	for _, svc := range model.Changes(last, s) {
		if svc == nil {
			continue
		}
		for _, b := range svc.Backends {
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
