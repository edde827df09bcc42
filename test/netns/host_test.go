// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/feature"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestHostClients: processes on the node itself reach services by the hooks of
// their cgroup, with no interface for clients at all, and no route to the
// virtual IPs.
func TestHostClients(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		c := trafficConfig(l)
		c.Interfaces = []string{}
		testHostClients(t, l.Start(t, c))
	})
}

// TestHostClientsBesideOthers is the same where clients arrive by an
// interface, too.
func TestHostClientsBesideOthers(t *testing.T) {
	lab.Some(t, []string{"clsact", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		testHostClients(t, l.Start(t, trafficConfig(l)))
	})
}

func testHostClients(t *testing.T, a *lab.Agent) {
	t.Run("A02Curl", func(t *testing.T) {
		families(t, func(t *testing.T, f lab.Family) {
			cmd := a.HostCommand(t, "curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://"+vip(f, 10, 90).String()+"/")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("curl: %v: %s", err, out)
			}
			if _, err := lab.ParseAnswer(string(out)); err != nil {
				t.Error(err)
			}
		})
	})
	for _, tt := range []struct {
		name    string
		network string
		mapped  bool
		family  lab.Family
		k, port int
	}{
		{"A04TCP/v4", "tcp", false, lab.V4, 13, 70},
		{"A04TCP/v6", "tcp", false, lab.V6, 13, 70},
		{"A04TCP/mapped", "tcp", true, lab.V4, 13, 70},
		{"A04UDPConnected/v4", "udp", false, lab.V4, 11, 71},
		{"A04UDPConnected/v6", "udp", false, lab.V6, 11, 71},
		{"A04UDPConnected/mapped", "udp", true, lab.V4, 11, 71},
		{"A04UDPUnconnected/v4", "udp-unconnected", false, lab.V4, 11, 71},
		{"A04UDPUnconnected/v6", "udp-unconnected", false, lab.V6, 11, 71},
		{"A04UDPUnconnected/mapped", "udp-unconnected", true, lab.V4, 11, 71},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testAsk(t, a, lab.Ask{Network: tt.network, Mapped: tt.mapped, Remote: vip(tt.family, tt.k, tt.port)})
		})
	}
	t.Run("A02OtherPortsAreRefused", func(t *testing.T) { testHostRefused(t, a) })
}

// testAsk: 30 sockets reach all replicas, and every socket's peer is the
// virtual IP, which is what the program asked for.
func testAsk(t *testing.T, a *lab.Agent, ask lab.Ask) {
	asks := make([]lab.Ask, 30)
	for i := range asks {
		asks[i] = ask
	}
	peer := ask.Remote
	if ask.Mapped {
		peer = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr().As16()), peer.Port())
	}
	names := map[string]int{}
	for _, told := range a.Host(t, asks...) {
		if err := told.Err(); err != nil {
			t.Fatal(err)
		}
		answer, err := lab.ParseAnswer(told.Answer)
		must(t, err)
		names[answer.Replica]++
		if told.Peer != peer {
			t.Fatalf("the socket's peer is %v, wanted %v", told.Peer, peer)
		}
	}
	if len(names) != 3 {
		t.Errorf("30 sockets reached %v, wanted all 3 replicas", names)
	}
}

func testHostRefused(t *testing.T, a *lab.Agent) {
	var asks []lab.Ask
	for _, f := range lab.Families {
		asks = append(asks, lab.Ask{Network: "tcp", Remote: vip(f, 10, 8090)}, lab.Ask{Network: "udp", Remote: vip(f, 11, 7001)},
			lab.Ask{Network: "tcp", Remote: vip(f, 11, 71)}, lab.Ask{Network: "udp-unconnected", Remote: vip(f, 10, 90)})
	}
	want := syscall.ECONNREFUSED
	if !feature.Has(t, feature.SetRetval) {
		want = syscall.EPERM // all that a hook can say there
	}
	begun := time.Now()
	for i, told := range a.Host(t, asks...) {
		// A datagram's error is known at the next call of a connected socket
		// only; an unconnected one may be told by the call itself.
		if err := told.Err(); !errors.Is(err, want) && !(asks[i].Network == "udp-unconnected" && err != nil) {
			t.Errorf("%s to %v: %v, wanted %v", asks[i].Network, asks[i].Remote, err, want)
		}
	}
	if took := time.Since(begun); took > lab.Patience(8*time.Second) {
		t.Errorf("refusing took %v", took)
	}
}

// TestOtherCgroupsAreLeftAlone: a process outside node.cgroup gets no
// connect-time balancing.
func TestOtherCgroupsAreLeftAlone(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		c := trafficConfig(l)
		c.Interfaces = []string{}
		l.Start(t, c)
		_, err := l.Node.Dial("tcp", netip.AddrPort{}, vip(lab.V4, 13, 70), time.Second)
		if err == nil || !strings.Contains(err.Error(), "unreachable") {
			t.Errorf("dial from outside the cgroup: %v, wanted network unreachable", err)
		}
	})
}
