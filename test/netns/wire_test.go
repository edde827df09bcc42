// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestWholeChecksums: with the senders' checksum offload off every packet
// carries a whole checksum, which receivers verify; with it on, as elsewhere,
// a wrong one would pass unseen. Lab fails the test if a stack refused one.
func TestWholeChecksums(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Client.Run(t, "ethtool", "-K", "eth0", "tx", "off")
		for _, r := range l.Replicas {
			r.NS.Run(t, "ethtool", "-K", "eth0", "tx", "off")
		}
		l.Serve(t)
		l.Start(t, trafficConfig(l))
		families(t, func(t *testing.T, f lab.Family) {
			testCurl(t, l, f)
			testUDP(t, l, f)
			testPing(t, l, f)
			testRefused(t, l, f)
			testNodePort(t, l, f)
		})
	})
}

// TestNodeForwardsToo: nothing changes where the node routes packets itself.
func TestNodeForwardsToo(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Forwarding(t, true)
		l.Serve(t)
		l.Start(t, trafficConfig(l))
		families(t, func(t *testing.T, f lab.Family) {
			testCurl(t, l, f)
			testRefused(t, l, f)
			testUDP(t, l, f)
			testPing(t, l, f)
		})
		// What is no service's passes by and is routed.
		l.Client.Run(t, "ip", "route", "add", "10.1.0.0/16", "via", "198.51.100.1")
		c, err := l.Client.Open(netip.AddrPort{}, netip.AddrPortFrom(l.Replicas[0].Addr4, lab.TCPPort))
		must(t, err)
		defer c.Close()
		must(t, c.Ping("past the balancer", time.Second))
	})
}

// TestReplicaPortClosed: a replica that does not listen is a connection
// refused for the client, and for UDP an ICMP error that its socket knows.
func TestReplicaPortClosed(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Start(t, trafficConfig(l)) // nothing listens anywhere
		families(t, func(t *testing.T, f lab.Family) {
			begun := time.Now()
			_, err := l.Client.Dial("tcp", netip.AddrPort{}, vip(f, 13, 70), 5*time.Second)
			wantRefused(t, "tcp", err, begun)
			c, err := l.Client.Dial("udp", netip.AddrPort{}, vip(f, 11, 71), time.Second)
			must(t, err)
			defer c.Close()
			begun = time.Now()
			_, err = lab.AskUDP(c, "x", time.Second)
			wantRefused(t, "udp", err, begun)
		})
	})
}

// TestA01DefaultPorts: without ports the service listens on 80 and reaches 80.
func TestA01DefaultPorts(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		for _, r := range l.Replicas {
			r.ServeHTTP(t, 80)
		}
		a := lab.NewAgent(t, l.Node, l.Mode)
		a.WriteText(t, fmt.Sprintf("node: {interfaces: [up0], attach: tc, cgroup: %q}\n", a.Cgroup)+
			"services:\n- {project: Тест, user: user, vip: 198.18.0.10, replicas: [10.1.1.2, 10.1.2.2]}\n")
		a.Run(t)
		a.WaitReady(t, 0)
		_, err := curl(l.Client, "http://198.18.0.10/")
		must(t, err)
		if _, known := a.Services(t)["test/user"]; !known {
			t.Errorf("A12: no service test/user for «Тест»: %v", a.Services(t))
		}
	})
}
