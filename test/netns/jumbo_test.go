// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/feature"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestJumboFrames: links of 9 000 bytes are used whole, by TCP, UDP and ping.
func TestJumboFrames(t *testing.T) {
	const mtu = "9000"
	lab.Beside(t, []string{"tcx", "clsact", "xdp-native", "xdp-generic"}, func(t *testing.T, l *lab.Lab) {
		if l.Mode.Name == "xdp-native" {
			feature.Needs(t, feature.XDPFrags)
		}
		l.Node.Run(t, "ip", "link", "set", "up0", "mtu", mtu)
		l.Client.Run(t, "ip", "link", "set", "eth0", "mtu", mtu)
		for i, r := range l.Replicas {
			l.Node.Run(t, "ip", "link", "set", fmt.Sprintf("rep%d", i+1), "mtu", mtu)
			r.NS.Run(t, "ip", "link", "set", "eth0", "mtu", mtu)
			r.ServeUDP(t, lab.UDPPort)
		}
		run := bulkPair(t, l.Replicas[0], l.Client, 16<<20)
		p := narrowPath{l, l.Client, l.Replicas[0], nil}
		l.Balance(t, p.services())
		families(t, func(t *testing.T, f lab.Family) {
			tr, err := run(vip(f, 40, 72))
			must(t, err)
			if tr.upMTU != 9000 || tr.downMTU != 9000 {
				t.Errorf("path MTU is %d at the client and %d at the replica, wanted %s", tr.upMTU, tr.downMTU, mtu)
			}
			c, err := l.Client.Dial("udp", netip.AddrPort{}, vip(f, 41, 71), time.Second)
			must(t, err)
			defer c.Close()
			must(t, wholeOnly(c))
			big := strings.Repeat("j", 8800)
			a, err := lab.AskUDP(c, big, 3*time.Second)
			if err != nil || a.Rest != big {
				t.Errorf("datagram of %d bytes in one frame: %v, %d bytes came back", len(big), err, len(a.Rest))
			}
			out := l.Client.Run(t, "ping", "-c", "2", "-i", "0.05", "-W", "2", "-M", "do", "-s", "8900", vip(f, 40, 0).Addr().String())
			if !strings.Contains(out, " 0% packet loss") {
				t.Errorf("ping: %s", out)
			}
		})
	})
}
