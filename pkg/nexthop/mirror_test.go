// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// ip runs lines of ip commands; those that the state of the host refuses do
// nothing.
func ip(t *testing.T, lines ...string) {
	t.Helper()
	cmd := exec.Command("ip", "-force", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil && len(out) == 0 {
		t.Fatal(err)
	}
}

// view is all that a mirror knows.
type view struct {
	links    []Link
	local    map[netip.Addr]string
	defaults []uint32
	names    map[netip.Addr]bool
	holding  map[netip.Addr]bool
}

func viewOf(t *testing.T, l *Links) (v view) {
	t.Helper()
	var errs [5]error
	v.links, errs[0] = l.List()
	v.local, errs[1] = l.Local()
	v.defaults, errs[2] = l.Default()
	v.names, errs[3] = l.mirror.own(ForNames)
	v.holding, errs[4] = l.mirror.own(ForHolding)
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (v view) differs(from view) string {
	switch {
	case !slices.Equal(v.links, from.links):
		return fmt.Sprintf("interfaces\n%+v\nwant\n%+v", v.links, from.links)
	case !maps.Equal(v.local, from.local):
		return fmt.Sprintf("addresses\n%v\nwant\n%v", v.local, from.local)
	case !slices.Equal(v.defaults, from.defaults):
		return fmt.Sprintf("default routes by %v, want %v", v.defaults, from.defaults)
	case !maps.Equal(v.names, from.names) || !maps.Equal(v.holding, from.holding):
		return fmt.Sprintf("own addresses %v and %v, want %v and %v", v.names, v.holding, from.names, from.holding)
	}
	return ""
}

// A mirror that has read announcements alone knows what a fresh one lists,
// whatever happens to the host, and however much of it since the last question.
func TestMirrorIsTheHost(t *testing.T) {
	ip(t, "link set lo up")
	l, err := OpenLinks()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	var made []string
	for i := range 4 {
		made = append(made, fmt.Sprintf("link del m%d", i))
	}
	defer ip(t, append(made, "link del renamed", "route del unreachable default metric 9", "nexthop flush", "link set lo up", "addr add 127.0.0.1/8 dev lo", "route flush proto 242",
		"-4 route flush table local proto 242", "-6 route flush table local proto 242", "-4 route flush table local proto 241")...)
	some := func() string {
		dev, n := fmt.Sprintf("m%d", rng.IntN(4)), rng.IntN(4)
		all := []string{
			"link add %s type veth peer name " + dev + "p", "link del %s", "link set %s up", "link set %s down", "link set %s mtu 1400",
			"link set %s name renamed", "link set renamed name %s", "link set %s address 02:00:00:00:00:0" + fmt.Sprint(n), "link add %s type bridge",
			"link set " + dev + "p master %s",
			fmt.Sprintf("addr add 10.9.%d.1/24 dev %%s", n), fmt.Sprintf("addr del 10.9.%d.1/24 dev %%s", n), fmt.Sprintf("addr add 10.8.0.1 peer 10.8.0.%d dev %%s", n+2),
			fmt.Sprintf("addr add fd00:9:%d::1/64 dev %%s", n), fmt.Sprintf("addr del fd00:9:%d::1/64 dev %%s", n), "addr flush dev %s",
			"route add default dev %s", "route del default dev %s", "-6 route add default dev %s metric " + fmt.Sprint(n+1), "-6 route del default dev %s",
			fmt.Sprintf("route add default via 10.9.%d.2 src 10.9.%d.1 metric 7", n, n), "route add unreachable default metric 9", "route del unreachable default metric 9",
			fmt.Sprintf("nexthop replace id 1 dev %s", "%s"), "route add default nhid 1 metric 8", "nexthop del id 1",
			fmt.Sprintf("route add local 198.18.0.%d dev lo table local proto 242", n), fmt.Sprintf("route del local 198.18.0.%d dev lo table local proto 242", n),
			fmt.Sprintf("-6 route add local fd00:18::%d dev lo table local proto 242", n+1), "-4 route add local 198.18.1.1 dev lo table local proto 241",
			"-4 route flush table local proto 242", "link set lo down", "link set lo up",
			"addr del 127.0.0.1/8 dev lo", "addr add 127.0.0.1/8 dev lo", "route add 198.18.9.9 dev %s proto 242",
		}
		line := all[rng.IntN(len(all))]
		if strings.Contains(line, "%s") {
			line = fmt.Sprintf(line, dev)
		}
		return line
	}
	var seen [3]bool // interfaces, default routes, own addresses
	for step := range 300 {
		var lines []string
		for range 1 + rng.IntN(12) {
			lines = append(lines, some())
		}
		if step%50 == 49 { // more than the socket holds
			lines = append(lines, "link add m0 type veth peer name m0p")
			for i := range 4000 {
				lines = append(lines, fmt.Sprintf("link set m0 mtu %d", 1300+i%100))
			}
			lines = append(lines, some(), some())
		}
		ip(t, lines...)
		fresh, err := OpenLinks()
		if err != nil {
			t.Fatal(err)
		}
		want := viewOf(t, fresh)
		got := viewOf(t, l)
		fresh.Close()
		if diff := got.differs(want); diff != "" {
			t.Fatalf("step %d: %s\nafter\n%s", step, diff, strings.Join(lines[:min(len(lines), 20)], "\n"))
		}
		seen[0], seen[1], seen[2] = seen[0] || len(want.links) > 3, seen[1] || len(want.defaults) > 0, seen[2] || len(want.holding) > 0
	}
	if !seen[0] || !seen[1] || !seen[2] {
		t.Errorf("interfaces, default routes, own addresses met: %v", seen)
	}
}

func TestAnnouncementsLost(t *testing.T) {
	a, err := subscribe(subscription{family: 0, groups: LinkEvents, buffer: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	var lines []string
	lines = append(lines, "link add lost type veth peer name lostp")
	for i := range 300 {
		lines = append(lines, fmt.Sprintf("link set lost mtu %d", 1300+i))
	}
	ip(t, append(lines, "link del lost")...)
	n := 0
	if !a.read(func(uint16, []byte) { n++ }) || n == 0 {
		t.Errorf("%d messages, none was missed; the kernel had no room for 300", n)
	}
	if a.read(func(uint16, []byte) { n++ }) {
		t.Error("messages are missed for ever")
	}
}
