// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Config is a config file of the agent.
type Config struct {
	Interfaces []string // nil: up0
	NoCgroup   bool     // no connect-time balancing
	Services   []Service
	Settings   string // more YAML lines, before the services
}

// Service is one service of a Config.
type Service struct {
	Name      string // PROJECT/USER
	VIP, VIP6 string // empty: allocated
	Container string // containerPort
	Service   string // servicePort
	Protocol  string // empty: tcp
	Drain     time.Duration
	Backends  []Backend
	Expose    map[int]int // node port → service port
	Workload  string      // YAML lines instead of backends
	Health    string      // YAML in braces; empty: {type: none}
	Mode      string      // empty: nat
	Policy    string      // balance.policy; empty: maglev
}

// Backend is one replica of a Service.
type Backend struct {
	Addrs  []netip.Addr
	Weight int
	Backup bool
}

// Backends are replicas of equal weight.
func Backends(replicas ...*Replica) []Backend {
	var bs []Backend
	for _, r := range replicas {
		bs = append(bs, Backend{Addrs: []netip.Addr{r.Addr4, r.Addr6}})
	}
	return bs
}

// yaml writes the file; cgroup is empty where connect hooks are off.
func (c Config) yaml(m Mode, cgroup string) string {
	var b strings.Builder
	interfaces := "[up0]"
	if c.Interfaces != nil {
		interfaces = "[" + strings.Join(c.Interfaces, ", ") + "]"
	}
	fmt.Fprintf(&b, "node:\n  interfaces: %s\n  attach: %s\n  tc: %s\n  cgroup: %q\n", interfaces, m.Attach, m.TC, cgroup)
	b.WriteString(c.Settings)
	b.WriteString("services:\n")
	for _, s := range c.Services {
		s.yaml(&b)
	}
	return b.String()
}

func (s Service) yaml(b *strings.Builder) {
	project, user, _ := strings.Cut(s.Name, "/")
	fmt.Fprintf(b, "- project: %s\n  user: %s\n  run:\n    containerPort: %q\n    servicePort: %q\n", project, user, s.Container, s.Service)
	optional := func(format, v string) {
		if v != "" {
			fmt.Fprintf(b, format, v)
		}
	}
	optional("    protocol: %q\n", s.Protocol)
	optional("  vip: %s\n", s.VIP)
	optional("  vip6: %q\n", s.VIP6)
	if s.Drain > 0 {
		fmt.Fprintf(b, "  drain: %s\n", s.Drain)
	}
	optional("  mode: %s\n", s.Mode)
	optional("  balance: {policy: %s}\n", s.Policy)
	fmt.Fprintf(b, "  health: %s\n", cmp.Or(s.Health, "{type: none}"))
	if len(s.Expose) > 0 {
		b.WriteString("  expose:\n")
		for port, target := range s.Expose {
			fmt.Fprintf(b, "  - port: {port: %d, servicePort: %d}\n", port, target)
		}
	}
	if s.Workload != "" {
		b.WriteString("  workload:\n" + s.Workload)
		return
	}
	b.WriteString("  replicas:\n")
	for _, r := range s.Backends {
		var addrs []string
		for _, a := range r.Addrs {
			addrs = append(addrs, fmt.Sprintf("%q", a))
		}
		fmt.Fprintf(b, "  - {address: [%s], weight: %d, backup: %v}\n", strings.Join(addrs, ", "), max(r.Weight, 1), r.Backup)
	}
}
