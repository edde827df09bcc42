// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/bench/report"
)

// plainRouting is the subject all others are compared with.
const plainRouting = "plain routing"

// subject is one kind of node.
type subject struct {
	name    string // of the command line
	title   string
	noUDP   bool
	setUp   func(b *bench, n *node) error
	to      func(n *node) netip.Addr // where the client connects
	within  time.Duration            // until it answers
	node    *node
	samples map[string][]taken // by measure, one a round
}

func subjects(many int) []*subject {
	vip := func(n *node) netip.Addr { return n.vip() }
	own := func(n *node) netip.Addr { return n.addr() }
	large := ", " + report.Number(many) + " services"
	soon, patient := 15*time.Second, 5*time.Minute
	return []*subject{
		{
			name: "plain", title: plainRouting, within: soon,
			setUp: func(*bench, *node) error { return nil }, to: func(n *node) netip.Addr { return n.server() },
		},
		{name: "fairlead", title: "fairlead", setUp: fairlead(1), to: vip, within: soon},
		{name: "fairlead-many", title: "fairlead" + large, setUp: fairlead(many), to: vip, within: patient},
		{name: "nftables", title: "nftables DNAT", setUp: nftables(1), to: vip, within: soon},
		{name: "nftables-many", title: "nftables DNAT" + large, setUp: nftables(many), to: vip, within: soon},
		{name: "iptables", title: "iptables DNAT", setUp: iptables(1), to: vip, within: soon},
		{name: "iptables-many", title: "iptables DNAT" + large, setUp: iptables(many), to: vip, within: soon},
		{name: "nginx", title: "nginx stream", setUp: nginx, to: own, within: soon},
		{name: "haproxy", title: "HAProxy", setUp: haproxy, to: own, within: soon, noUDP: true},
	}
}

// others are the services beside the measured one in a large configuration:
// addresses nobody calls. They lie on both sides of it.
func others(many int) (before, after []netip.Addr) {
	for i := range many - 1 {
		a := netip.AddrFrom4([4]byte{198, 18, byte(128 + i>>8), byte(i)})
		if i < (many-1)/2 {
			before = append(before, a)
		} else {
			after = append(after, a)
		}
	}
	return before, after
}

// maxMany is what the address range of others holds.
const maxMany = 128 * 256

// each joins one line for every address.
func each(addrs []netip.Addr, line func(netip.Addr) string) string {
	var b strings.Builder
	for _, a := range addrs {
		b.WriteString(line(a))
	}
	return b.String()
}

// wait waits until requests through the subject are answered.
func (s *subject) wait(l *lab) error {
	deadline := time.Now().Add(s.within)
	for {
		r, err := l.order("connect", netip.AddrPortFrom(s.to(s.node), requestPort), 20*time.Millisecond)
		if err == nil && r.Done > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no request was answered within %s: %w\n%s", s.within, err, s.node.Said())
		}
		time.Sleep(100 * time.Millisecond)
	}
}
