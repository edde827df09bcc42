// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// Nftables is the yardstick: the kernel's own DNAT on the node in place of
// fairlead. Where it is right, fairlead has to be.
var Nftables = Mode{Name: "nftables"}

// Fairlead tells whether fairlead carries the packets.
func (m Mode) Fairlead() bool { return m.Attach != "" }

// Beside is Some, with Nftables as one more mode. The test starts what
// balances with Lab.Balance.
func Beside(t *testing.T, names []string, f func(t *testing.T, l *Lab)) {
	t.Helper()
	modes := served(t, names)
	if only := os.Getenv("FAIRLEAD_TEST_MODES"); only == "" || slices.Contains(strings.Split(only, ","), Nftables.Name) {
		modes = append(modes, Nftables)
	}
	for _, m := range modes {
		t.Run(m.Name, func(t *testing.T) { f(t, New(t, m)) })
	}
}

// Balance puts the services into force, by fairlead or by nftables. The agent
// is nil for nftables.
func (l *Lab) Balance(t testing.TB, c Config) *Agent {
	t.Helper()
	if l.Mode.Fairlead() {
		return l.Start(t, c)
	}
	l.dnat(t, c)
	return nil
}

// dnat makes the node route packets, own the virtual IPs (it answers pings of
// them and refuses their other ports) and translate those to services.
func (l *Lab) dnat(t testing.TB, c Config) {
	t.Helper()
	l.Forwarding(t, true)
	var b strings.Builder
	b.WriteString("table inet lb {\nchain pre {\ntype nat hook prerouting priority dstnat;\n")
	for _, s := range c.Services {
		for _, vip := range []string{s.VIP, s.VIP6} {
			if vip == "" {
				continue
			}
			l.Node.Run(t, "ip", "addr", "replace", vip, "dev", "lo")
			s.rules(&b, netip.MustParseAddr(vip))
		}
	}
	b.WriteString("}\n}\n")
	ctx, cancel := context.WithTimeout(t.Context(), Patience(10*time.Second))
	defer cancel()
	cmd := l.Node.Command(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := output(cmd); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, b.String())
	}
}

// rules translates every port of the service by position, to its backends in turn.
func (s Service) rules(b *strings.Builder, vip netip.Addr) {
	family, format := "ip", "%s"
	if vip.Is6() {
		family, format = "ip6", "[%s]"
	}
	var to []string
	for _, r := range s.Backends {
		for _, a := range r.Addrs {
			if a.Is4() == vip.Is4() {
				to = append(to, a.String())
			}
		}
	}
	containers, protocols := strings.Split(s.Container, ","), strings.Split(s.Protocol, "+")
	for i, port := range strings.Split(s.Service, ",") {
		for _, proto := range protocols {
			fmt.Fprintf(b, "%s daddr %s %s dport %s dnat %s to ", family, vip, proto, port, family)
			if len(to) == 1 {
				fmt.Fprintf(b, format, to[0])
			} else {
				fmt.Fprintf(b, "numgen inc mod %d map { ", len(to))
				for k, a := range to {
					fmt.Fprintf(b, "%d : %s, ", k, a)
				}
				b.WriteString("} ")
			}
			fmt.Fprintf(b, ":%s\n", containers[i])
		}
	}
}
