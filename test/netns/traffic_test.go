// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/feature"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestTraffic is one agent with several services, and one client that tries
// all of them.
func TestTraffic(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Start(t, trafficConfig(l))
		checkAttached(t, a, l)
		t.Run("A02CurlReachesContainerPort", func(t *testing.T) { families(t, func(t *testing.T, f lab.Family) { testCurl(t, l, f) }) })
		t.Run("A02OtherPortsAreRefused", func(t *testing.T) { families(t, func(t *testing.T, f lab.Family) { testRefused(t, l, f) }) })
		t.Run("A03PortsPairByPosition", func(t *testing.T) { families(t, func(t *testing.T, f lab.Family) { testPairs(t, l, f) }) })
		t.Run("A04AllReplicasAnswer", func(t *testing.T) { families(t, func(t *testing.T, f lab.Family) { testAllAnswer(t, l, f) }) })
		t.Run("A04UDP", func(t *testing.T) { families(t, func(t *testing.T, f lab.Family) { testUDP(t, l, f) }) })
		t.Run("PingIsAnswered", func(t *testing.T) { families(t, func(t *testing.T, f lab.Family) { testPing(t, l, f) }) })
		t.Run("NodePort", func(t *testing.T) { families(t, func(t *testing.T, f lab.Family) { testNodePort(t, l, f) }) })
		t.Run("TheNodeItselfIsReached", func(t *testing.T) { families(t, func(t *testing.T, f lab.Family) { testNodePing(t, l, f) }) })
	})
}

func trafficConfig(l *lab.Lab) lab.Config {
	web := service(l, 10, "shop/web", "90", "8090", "tcp")
	web.Expose = map[int]int{9000: 90}
	return lab.Config{Services: []lab.Service{
		web,
		service(l, 11, "shop/dgram", "71", "7001", "udp"),
		service(l, 12, "shop/pairs", "80,8080", "8090,7000", "tcp"),
		stream(l, 13),
	}}
}

// checkAttached makes sure that the mode under test is the one at work.
func checkAttached(t *testing.T, a *lab.Agent, l *lab.Lab) {
	t.Helper()
	tc := l.Mode.TC
	if tc == "auto" {
		tc = feature.BestTC(t)
	}
	xdp, _ := strings.CutPrefix(l.Mode.Attach, "xdp-")
	got := map[string]string{}
	for _, i := range a.Status(t).Interfaces {
		got[i.Name] = i.TC
		if i.Name == "up0" && l.Mode.XDP() {
			got[i.Name] = i.XDP
		}
		if i.Error != "" {
			t.Errorf("interface %s: %s", i.Name, i.Error)
		}
	}
	want := map[string]string{"up0": tc, "rep1": tc, "rep2": tc, "rep3": tc}
	if l.Mode.XDP() {
		want["up0"] = xdp
	}
	if !maps.Equal(got, want) {
		t.Errorf("interfaces are attached by %v, wanted %v", got, want)
	}
}

func curl(n *lab.Netns, url string) (lab.Answer, error) {
	out, err := n.Try("curl", "-sS", "--noproxy", "*", "--max-time", "5", url)
	if err != nil {
		return lab.Answer{}, fmt.Errorf("curl %s: %w: %s", url, err, out)
	}
	return lab.ParseAnswer(out)
}

func testCurl(t *testing.T, l *lab.Lab, f lab.Family) {
	for range 5 {
		a, err := curl(l.Client, "http://"+vip(f, 10, 90).String()+"/")
		must(t, err)
		if a.Client.Addr() != lab.ClientAddr(f) {
			t.Errorf("the replica sees client %v, wanted %v: mode nat keeps the address", a.Client, lab.ClientAddr(f))
		}
	}
}

func testRefused(t *testing.T, l *lab.Lab, f lab.Family) {
	for _, port := range []int{8090, 1, 91} {
		begun := time.Now()
		c, err := l.Client.Dial("tcp", netip.AddrPort{}, vip(f, 10, port), 5*time.Second)
		if err == nil {
			c.Close()
		}
		wantRefused(t, fmt.Sprint("tcp ", vip(f, 10, port)), err, begun)
	}
	for _, to := range []netip.AddrPort{vip(f, 11, 7001), vip(f, 10, 90)} {
		c, err := l.Client.Dial("udp", netip.AddrPort{}, to, time.Second)
		must(t, err)
		begun := time.Now()
		_, err = lab.AskUDP(c, "x", time.Second)
		wantRefused(t, fmt.Sprint("udp ", to), err, begun)
		c.Close()
	}
}

// wantRefused: a RST for TCP, an ICMP port unreachable for UDP.
func wantRefused(t *testing.T, what string, err error, begun time.Time) {
	t.Helper()
	if took := time.Since(begun); !errors.Is(err, syscall.ECONNREFUSED) || took > lab.Patience(time.Second) {
		t.Errorf("%s: %v after %v, wanted connection refused within 1 s", what, err, took)
	}
}

func testPairs(t *testing.T, l *lab.Lab, f lab.Family) {
	_, err := curl(l.Client, "http://"+vip(f, 12, 80).String()+"/")
	must(t, err)
	c, err := l.Client.Open(netip.AddrPort{}, vip(f, 12, 8080))
	must(t, err)
	defer c.Close()
	must(t, c.Ping("a line", time.Second))
}

func testAllAnswer(t *testing.T, l *lab.Lab, f lab.Family) {
	got, err := l.Client.Spread(vip(f, 13, 70), 60)
	must(t, err)
	if len(got) != len(l.Replicas) {
		t.Errorf("60 connections reached %v, wanted all %d replicas", got, len(l.Replicas))
	}
}

func testUDP(t *testing.T, l *lab.Lab, f lab.Family) {
	names := map[string]bool{}
	for i := range 40 {
		c, err := l.Client.Dial("udp", netip.AddrPort{}, vip(f, 11, 71), time.Second)
		must(t, err)
		var first string
		for k := range 3 {
			payload := fmt.Sprintf("socket %d datagram %d", i, k)
			a, err := lab.AskUDP(c, payload, 2*time.Second)
			must(t, err)
			if a.Rest != payload || a.Client.Addr() != lab.ClientAddr(f) {
				t.Fatalf("answer %+v to %q from %v", a, payload, lab.ClientAddr(f))
			}
			if first == "" {
				first = a.Replica
			}
			if a.Replica != first {
				t.Errorf("datagrams of one socket reached %s and %s", first, a.Replica)
			}
		}
		names[first] = true
		c.Close()
	}
	if len(names) != len(l.Replicas) {
		t.Errorf("40 sockets reached %v, wanted all %d replicas", names, len(l.Replicas))
	}
}

func testPing(t *testing.T, l *lab.Lab, f lab.Family) {
	for _, size := range []string{"56", "1200"} {
		out := l.Client.Run(t, "ping", "-c", "3", "-i", "0.05", "-W", "2", "-s", size, vip(f, 10, 0).Addr().String())
		if !strings.Contains(out, " 0% packet loss") {
			t.Errorf("ping with %s bytes: %s", size, out)
		}
	}
}

func testNodePort(t *testing.T, l *lab.Lab, f lab.Family) {
	a, err := curl(l.Client, "http://"+netip.AddrPortFrom(lab.NodeAddr(f), 9000).String()+"/")
	must(t, err)
	if a.Client.Addr() != lab.ClientAddr(f) {
		t.Errorf("the replica sees client %v, wanted %v", a.Client, lab.ClientAddr(f))
	}
}

// testNodePing: what is not fairlead's passes by: the node's own stack answers.
func testNodePing(t *testing.T, l *lab.Lab, f lab.Family) {
	l.Client.Run(t, "ping", "-c", "1", "-W", "2", lab.NodeAddr(f).String())
	_, err := l.Client.Dial("tcp", netip.AddrPort{}, netip.AddrPortFrom(lab.NodeAddr(f), 9001), time.Second)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("tcp to a closed port of the node: %v, wanted connection refused by its own stack", err)
	}
}
