// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"fmt"
	"maps"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/nexthop/nstest"
	"github.com/fairlead-lb/fairlead/test/feature"
)

func TestMain(m *testing.M) {
	// Before Linux 5.11 programs count against it; in the agent pkg/bpf does this.
	_ = rlimit.RemoveMemlock()
	nstest.Main(func() { goleak.VerifyTestMain(m) })
}

func TestAttach(t *testing.T) {
	for _, tc := range []struct {
		attach, tc string
		want       Interface
		xdp        int
	}{
		{"auto", "auto", Interface{Name: "veth0", Role: "nic", TC: feature.BestTC(t)}, 0},
		{"tc", "clsact", Interface{Name: "veth0", Role: "nic", TC: "clsact"}, 0},
		{"xdp-native", "tcx", Interface{Name: "veth0", Role: "nic", XDP: "native", TC: "tcx"}, 20},
		{"xdp-generic", "clsact", Interface{Name: "veth0", Role: "nic", XDP: "generic", TC: "clsact"}, 20},
		{"xdp-native", "clsact", Interface{Name: "veth0", Role: "nic", XDP: "native", TC: "clsact"}, 20},
	} {
		t.Run(tc.attach+" "+tc.tc, func(t *testing.T) {
			if tc.tc == "tcx" {
				feature.Needs(t, feature.TCX)
			}
			ns, near := veth(t)
			w := newWorld(t)
			before := listing(t)
			target := w.start()
			apply(t, target, state(node(tc.attach, tc.tc, "veth0")))
			if got := shown(t, target, "veth0"); got != tc.want {
				t.Errorf("Interfaces = %+v, want %+v", got, tc.want)
			}
			if got := grows(t, ns, w.tc, 20); got != 20 {
				t.Errorf("TC program saw %d datagrams, want 20", got)
			}
			if got := grows(t, ns, w.xdp, 20); got != tc.xdp {
				t.Errorf("XDP program saw %d datagrams, want %d", got, tc.xdp)
			}
			entry := w.ifaces.entries[uint32(near.Attrs().Index)]
			if entry[0] != 1 || entry[1]&IfacePeer == 0 {
				t.Errorf("IfaceMap entry = %v, want slot 1 and a peer elsewhere", entry)
			}
			apply(t, target, state(node(tc.attach, tc.tc)))
			if got := target.Interfaces(); len(got) != 0 {
				t.Errorf("after it is not wanted: %+v", got)
			}
			if len(w.ifaces.entries) != 0 {
				t.Errorf("IfaceMap keeps %v", w.ifaces.entries)
			}
			if after := listing(t); after != before {
				t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// Before Linux 5.12 programs know a link's MTU from here alone.
func TestMTUFollowsTheLink(t *testing.T) {
	_, near := veth(t)
	w := newWorld(t)
	target := w.start()
	for _, mtu := range []uint16{1500, 1400} {
		if err := netlink.LinkSetMTU(near, int(mtu)); err != nil {
			t.Fatal(err)
		}
		apply(t, target, state(node("auto", "auto", "veth0")))
		if got := w.ifaces.mtus[uint32(near.Attrs().Index)]; got != mtu {
			t.Errorf("MTU in the IfaceMap = %d, the link's is %d", got, mtu)
		}
	}
}

// A kernel before 6.6: clsact where tcx is not insisted on.
func TestNoTCX(t *testing.T) {
	ns, _ := veth(t)
	w := newWorld(t)
	target := w.start()
	target.attachTCX = func(link.TCXOptions) (link.Link, error) { return nil, link.ErrNotSupported }
	apply(t, target, state(node("tc", "auto", "veth0")))
	if got := shown(t, target, "veth0"); got.TC != "clsact" || got.Error != "" {
		t.Errorf("auto: %+v", got)
	}
	if got := grows(t, ns, w.tc, 5); got != 5 {
		t.Errorf("TC saw %d of 5", got)
	}
	err := target.Apply(t.Context(), state(node("tc", "tcx", "veth0")))
	if err == nil || !strings.Contains(err.Error(), "veth0") || !strings.Contains(err.Error(), "Linux 6.6") {
		t.Errorf("tcx: %v", err)
	}
	if got := grows(t, ns, w.tc, 5); got != 5 {
		t.Errorf("what worked was taken off: TC saw %d of 5", got)
	}
}

// The same state twice does no work: no program, link or filter is made new.
func TestSameStateTwice(t *testing.T) {
	_, _ = veth(t)
	w := newWorld(t)
	target := w.start()
	for _, tc := range feature.WaysTC(t) {
		s := state(node("xdp-native", tc, "veth0"), "10.1.0.2")
		apply(t, target, s)
		before, writes := listing(t), w.ifaces.writes
		for range 3 {
			apply(t, target, s)
		}
		if after := listing(t); after != before {
			t.Errorf("%s: changed from\n%s\nto\n%s", tc, before, after)
		}
		if w.ifaces.writes != writes {
			t.Errorf("%s: %d writes to the IfaceMap", tc, w.ifaces.writes-writes)
		}
	}
}

// One way to the other and back, with packets all the time: none is missed,
// and afterwards each is seen once.
func TestSwitchTC(t *testing.T) {
	feature.Needs(t, feature.TCX)
	ns, _ := veth(t)
	w := newWorld(t)
	target := w.start()
	apply(t, target, state(node("tc", "tcx", "veth0")))
	stop, sent := flood(t, ns)
	for range 5 {
		for _, tc := range []string{"clsact", "tcx", "auto"} {
			apply(t, target, state(node("tc", tc, "veth0")))
		}
	}
	stop()
	nstest.Until(t, fmt.Sprintf("all %d datagrams were seen", *sent), func() bool { return int(w.tc.value(t)) >= *sent })
	if got := grows(t, ns, w.tc, 10); got != 10 {
		t.Errorf("10 datagrams were seen %d times", got)
	}
}

func TestSwitchXDP(t *testing.T) {
	ns, _ := veth(t)
	w := newWorld(t)
	target := w.start()
	for _, step := range []struct{ attach, want string }{
		{"xdp-native", "native"},
		{"xdp-generic", "generic"},
		{"auto", ""},
		{"xdp-generic", "generic"},
		{"tc", ""},
		{"xdp-native", "native"},
	} {
		apply(t, target, state(node(step.attach, "auto", "veth0")))
		if got := shown(t, target, "veth0"); got.XDP != step.want || got.TC != feature.BestTC(t) || got.Error != "" {
			t.Errorf("%s: %+v, want XDP %q", step.attach, got, step.want)
		}
		want := 0
		if step.want != "" {
			want = 10
		}
		if got := grows(t, ns, w.xdp, 10); got != want {
			t.Errorf("%s: XDP program saw %d datagrams, want %d", step.attach, got, want)
		}
	}
}

// A new agent takes links over: other programs, the same links, no gap, and
// the same counter slots.
func TestAdopt(t *testing.T) {
	for _, tc := range feature.WaysTC(t) {
		t.Run(tc, func(t *testing.T) {
			ns, near := veth(t)
			index := uint32(near.Attrs().Index)
			w := newWorld(t)
			s := state(node("xdp-native", tc, "veth0"))
			first := w.start()
			first.slots.last = 41 // as if others had come and gone
			apply(t, first, s)
			links, slots := linkIDs(t), maps.Clone(w.ifaces.entries)
			stop, sent := flood(t, ns)
			for range 5 {
				old, err := programID(w.programs.TC)
				if err != nil {
					t.Fatal(err)
				}
				w.load()
				next := w.start()
				if got := shown(t, next, "veth0"); got.XDP != "native" {
					t.Errorf("before Apply: %+v", got)
				}
				apply(t, next, s)
				now, err := programID(w.programs.TC)
				if err != nil {
					t.Fatal(err)
				}
				if tc == "clsact" && next.ifaces[index].filter.program != now || old == now {
					t.Errorf("filter has program %d, want %d", next.ifaces[index].filter.program, now)
				}
				next.Close()
			}
			stop()
			if got := linkIDs(t); !maps.Equal(got, links) {
				t.Errorf("links are %v, were %v", got, links)
			}
			if !maps.Equal(w.ifaces.entries, slots) || slots[index][0] != 42 {
				t.Errorf("IfaceMap is %v, was %v", w.ifaces.entries, slots)
			}
			nstest.Until(t, fmt.Sprintf("both programs saw all %d datagrams", *sent), func() bool {
				return int(w.xdp.value(t)) >= *sent && int(w.tc.value(t)) >= *sent
			})
			if x, c := int(w.xdp.value(t)), int(w.tc.value(t)); x != *sent || c != *sent {
				t.Errorf("%d datagrams: XDP saw %d, TC %d", *sent, x, c)
			}
		})
	}
}

// A new agent touches nothing before it knows what is wanted; then it takes
// off what is not.
func TestAdoptUnwanted(t *testing.T) {
	_, _ = veth(t)
	w := newWorld(t)
	before := listing(t)
	for _, tc := range feature.WaysTC(t) {
		first := w.start()
		apply(t, first, state(node("xdp-native", tc, "veth0")))
		attached := listing(t)
		first.Close()
		second := w.start()
		if got := listing(t); got != attached {
			t.Errorf("%s: New changed\n%s\nto\n%s", tc, attached, got)
		}
		apply(t, second, state(node("auto", tc)))
		if got := listing(t); got != before {
			t.Errorf("%s: left behind:\n%s\nbefore:\n%s", tc, got, before)
		}
		second.Close()
	}
}

// A program somebody took off, and one whose interface went, come back.
func TestMend(t *testing.T) {
	feature.Needs(t, feature.TCX)
	ns, near := veth(t)
	w := newWorld(t)
	target := w.start()
	s := state(node("xdp-native", feature.BestTC(t), "veth0"))
	apply(t, target, s)
	index := uint32(near.Attrs().Index)
	for _, p := range []*pinned{target.ifaces[index].xdp, target.ifaces[index].tcx} {
		if err := p.link.Detach(); err != nil {
			t.Fatal(err)
		}
	}
	if grows(t, ns, w.tc, 5) != 0 || grows(t, ns, w.xdp, 5) != 0 {
		t.Fatal("programs run after they were detached")
	}
	apply(t, target, s)
	if c, x := grows(t, ns, w.tc, 5), grows(t, ns, w.xdp, 5); c != 5 || x != 5 {
		t.Errorf("after mending: TC saw %d, XDP %d of 5", c, x)
	}
	s = state(node("tc", "clsact", "veth0"))
	apply(t, target, s)
	if out, err := exec.Command("tc", "qdisc", "del", "dev", "veth0", "clsact").CombinedOutput(); err != nil {
		t.Fatalf("%s%v", out, err)
	}
	apply(t, target, s)
	if got := grows(t, ns, w.tc, 5); got != 5 {
		t.Errorf("after mending clsact: TC saw %d of 5", got)
	}
}

func TestInterfaceComesAndGoes(t *testing.T) {
	for _, tc := range feature.WaysTC(t) {
		t.Run(tc, func(t *testing.T) {
			w := newWorld(t)
			target := w.start()
			s := state(node("xdp-native", tc, "veth0"))
			apply(t, target, s)
			if got := shown(t, target, "veth0"); !strings.Contains(got.Error, "no interface of this name") {
				t.Errorf("before it is there: %+v", got)
			}
			for range 3 {
				ns, near := veth(t)
				apply(t, target, s)
				if got := shown(t, target, "veth0"); got.TC != tc || got.XDP != "native" || got.Error != "" {
					t.Errorf("when it is there: %+v", got)
				}
				if got := grows(t, ns, w.tc, 5); got != 5 {
					t.Errorf("TC saw %d of 5", got)
				}
				if err := netlink.LinkDel(near); err != nil {
					t.Fatal(err)
				}
				apply(t, target, s)
				if len(w.ifaces.entries) != 0 || len(pinNames(t, w.pins)) != 0 {
					t.Errorf("left behind: %v %v", w.ifaces.entries, pinNames(t, w.pins))
				}
			}
			// An interface that went while no agent ran.
			_, near := veth(t)
			apply(t, target, s)
			target.Close()
			if err := netlink.LinkDel(near); err != nil {
				t.Fatal(err)
			}
			w.start()
			if got := pinNames(t, w.pins); len(got) != 0 {
				t.Errorf("stale pins: %v", got)
			}
		})
	}
}
