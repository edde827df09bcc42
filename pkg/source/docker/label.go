// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// prefix begins every label that is read.
const prefix = "fairlead."

// ownerLabel is on containers that fairlead made: they are no services.
const ownerLabel = prefix + "owner"

// labeled is a container with labels for fairlead.
type labeled struct {
	name         string
	created      int64
	running      bool
	keys         map[string]string // of the service, without the prefix
	addr4, addr6 netip.Addr
	weight       uint16
	backup, down bool
}

// read takes a container apart. fault says in words what is wrong with it.
func read(c container.Summary) (l labeled, fault string) {
	l = labeled{created: c.Created, running: c.State == container.StateRunning, keys: map[string]string{}, weight: 1}
	if len(c.Names) > 0 {
		l.name = strings.TrimPrefix(c.Names[0], "/")
	}
	network := ""
	for label, text := range c.Labels {
		key, ours := strings.CutPrefix(label, prefix)
		if !ours {
			continue
		}
		bad := ""
		switch key {
		case "network":
			network = text
		case "weight":
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil || n == 0 {
				bad = "want a number from 1 to 65535"
			}
			l.weight = uint16(n)
		case "backup":
			if text != "true" && text != "false" {
				bad = "want true or false"
			}
			l.backup = text == "true"
		default:
			l.keys[key] = text
		}
		if bad != "" {
			fault = fmt.Sprintf("label %s: got %.80q, %s", label, text, bad)
		}
	}
	if why := l.address(c, network); why != "" && l.running {
		fault = cmp.Or(fault, why)
	}
	// The daemon checks its health itself (HEALTHCHECK).
	l.down = strings.Contains(c.Status, "(unhealthy)") || strings.Contains(c.Status, "(health: starting)")
	return l, fault
}

// address finds the container's addresses: of the network that a label names,
// else of the default bridge, else of the first one by name.
func (l *labeled) address(c container.Summary, network string) (fault string) {
	if c.NetworkSettings == nil {
		return "it has no network"
	}
	all := c.NetworkSettings.Networks
	names := slices.Sorted(maps.Keys(all))
	if network != "" {
		if all[network] == nil {
			return fmt.Sprintf("label %snetwork: got %.80q, but it is in %s", prefix, network, strings.Join(names, ", "))
		}
		names = []string{network}
	} else if all["bridge"] != nil {
		names = []string{"bridge"}
	}
	for _, name := range names {
		if e := all[name]; e != nil && (e.IPAddress.IsValid() || e.GlobalIPv6Address.IsValid()) {
			l.addr4, l.addr6 = e.IPAddress, e.GlobalIPv6Address
			return ""
		}
	}
	return fmt.Sprintf("it has no address of its own in network %s: give it one of a bridge", strings.Join(names, ", "))
}

// backend is the container as a replica; false: it does not run.
func (l labeled) backend() (model.Backend, bool) {
	b := model.Backend{Addr4: l.addr4, Addr6: l.addr6, Weight: l.weight, Backup: l.backup, Replica: l.name}
	if l.down {
		b.Condition = model.Down
	}
	return b, l.running && len(b.Addrs()) > 0
}

// group puts the containers of each service together. The first of a group
// says what the service is: the oldest that runs. One that says otherwise is left
// out, so that a newcomer cannot change a service that others rely on.
func group(list []container.Summary) (groups [][]labeled, problems []string) {
	var all []labeled
	for _, c := range list {
		if c.Labels[ownerLabel] != "" {
			continue
		}
		l, fault := read(c)
		if fault != "" {
			problems = append(problems, fmt.Sprintf("container %s: %s", l.name, fault))
			continue
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b labeled) int {
		if a.running != b.running {
			return map[bool]int{true: -1, false: 1}[a.running]
		}
		return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.name, b.name))
	})
	at := map[[2]string]int{}
	for _, l := range all {
		id := [2]string{l.keys["project"], l.keys["user"]}
		i, there := at[id]
		if !there {
			at[id] = len(groups)
			groups = append(groups, []labeled{l})
			continue
		}
		if key, differs := difference(groups[i][0].keys, l.keys); differs {
			if l.running {
				problems = append(problems, fmt.Sprintf("container %s: label %s%s is %.80q, but container %s of the same service has %.80q: make them equal",
					l.name, prefix, key, l.keys[key], groups[i][0].name, groups[i][0].keys[key]))
			}
			continue
		}
		groups[i] = append(groups[i], l)
	}
	slices.Sort(problems)
	return groups, problems
}

// difference is the first key that two have with different values.
func difference(a, b map[string]string) (key string, differs bool) {
	for _, key := range slices.Sorted(maps.Keys(a)) {
		if text, there := b[key]; !there || text != a[key] {
			return key, true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(b)) {
		if _, there := a[key]; !there {
			return key, true
		}
	}
	return "", false
}
