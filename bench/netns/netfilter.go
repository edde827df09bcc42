// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// rulesWithin is what loading rules may take.
const rulesWithin = 2 * time.Minute

// nftables translates by a map, which costs the same however many services are
// in it; with one service, by its three elements.
func nftables(n int) func(*bench, *node) error {
	return func(_ *bench, at *node) error {
		element := func(a netip.Addr) string { return fmt.Sprintf("%s . tcp . 80 : %s . 80,\n", a, at.server()) }
		before, after := others(n)
		var b strings.Builder
		b.WriteString("table ip lb {\nmap services {\ntype ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service\nelements = {\n")
		b.WriteString(each(before, element))
		for _, p := range ports {
			fmt.Fprintf(&b, "%s . %s . %d : %s . %d,\n", at.vip(), p.proto, p.port, at.server(), p.port)
		}
		b.WriteString(each(after, element))
		b.WriteString("}\n}\nchain pre {\ntype nat hook prerouting priority dstnat;\n" +
			"dnat ip to ip daddr . meta l4proto . th dport map @services\n}\n}\n")
		if _, err := at.Output(rulesWithin, b.String(), nil, "nft", "-f", "-"); err != nil {
			return err
		}
		return at.conntrack()
	}
}

var ports = []struct {
	proto string
	port  int
}{{"tcp", requestPort}, {"tcp", iperfPort}, {"udp", datagramPort}}

// iptables has one rule for every port, as kube-proxy writes them; those of
// the measured service are in the middle of the list.
func iptables(n int) func(*bench, *node) error {
	return func(_ *bench, at *node) error {
		rule := func(a netip.Addr) string {
			return fmt.Sprintf("-A PREROUTING -d %s/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination %s:80\n", a, at.server())
		}
		before, after := others(n)
		var b strings.Builder
		b.WriteString("*nat\n:PREROUTING ACCEPT [0:0]\n" + each(before, rule))
		for _, p := range ports {
			fmt.Fprintf(&b, "-A PREROUTING -d %s/32 -p %s -m %s --dport %d -j DNAT --to-destination %s:%d\n",
				at.vip(), p.proto, p.proto, p.port, at.server(), p.port)
		}
		b.WriteString(each(after, rule) + "COMMIT\n")
		if _, err := at.Output(rulesWithin, b.String(), nil, "iptables-restore"); err != nil {
			return err
		}
		return at.conntrack()
	}
}

// conntrack shortens the memory of ended connections: at the rates measured
// the table would be full of them within seconds, and drop packets.
func (n *node) conntrack() error {
	return n.Sysctl(map[string]string{
		"net/netfilter/nf_conntrack_tcp_timeout_time_wait": "2",
		"net/netfilter/nf_conntrack_tcp_timeout_close":     "2",
	})
}
