// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestLab shows that the lab works without fairlead, and that nothing but
// fairlead reaches a virtual IP: what the other tests see is its doing.
func TestLab(t *testing.T) {
	lab.Some(t, []string{"tcx", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		l.Client.Run(t, "ip", "route", "add", "10.1.0.0/16", "via", "198.51.100.1")
		l.Client.Run(t, "ip", "-6", "route", "add", "fd00:1::/32", "via", "fd00:c::1")
		families(t, func(t *testing.T, f lab.Family) {
			l.Forwarding(t, false)
			for _, to := range []netip.AddrPort{vip(f, 10, 90), netip.AddrPortFrom(l.Replicas[0].Addr(f), lab.TCPPort)} {
				if c, err := l.Client.Dial("tcp", netip.AddrPort{}, to, 200*time.Millisecond); err == nil {
					c.Close()
					t.Errorf("%v answers though nothing carries packets there", to)
				}
			}
			l.Forwarding(t, true)
			for _, r := range l.Replicas {
				c, err := l.Client.Open(netip.AddrPort{}, netip.AddrPortFrom(r.Addr(f), lab.TCPPort))
				must(t, err)
				defer c.Close()
				must(t, c.Ping("by plain routing", time.Second))
				if c.Replica != r.Name || c.Client.Addr() != lab.ClientAddr(f) {
					t.Errorf("answer %+v, wanted %s to see %v", c.Answer, r.Name, lab.ClientAddr(f))
				}
			}
		})
	})
}

// TestSweepKnowsItsOwn: everything of this run carries its prefix.
func TestSweepKnowsItsOwn(t *testing.T) {
	lab.New(t, lab.Any(t))
	entries, err := os.ReadDir("/run/netns")
	must(t, err)
	mine := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), lab.Prefix()+"-") {
			mine++
		}
	}
	if want := 5; mine != want { // client, node, three replicas
		t.Errorf("%d namespaces carry the prefix %s, wanted %d", mine, lab.Prefix(), want)
	}
}
