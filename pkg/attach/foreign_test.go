// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/florianl/go-tc"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/feature"
)

// An XDP program of somebody else stays where it is.
func TestForeignXDP(t *testing.T) {
	ns, near := veth(t)
	w := newWorld(t)
	target := w.start()
	theirs := xdpProgram(t, newCounter(t))
	l, err := link.AttachXDP(link.XDPOptions{Program: theirs, Interface: near.Attrs().Index})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, attach := range []string{"xdp-native", "xdp-generic"} {
		s := state(node(attach, "auto", "veth0"))
		apply(t, target, s)
		got := shown(t, target, "veth0")
		if got.XDP != "" || got.TC != feature.BestTC(t) || !strings.Contains(got.Error, `"`+programName+`"`) || !strings.Contains(got.Error, "left alone") {
			t.Errorf("%s: %+v, want it to name the other program", attach, got)
		}
		if got := grows(t, ns, w.tc, 5); got != 5 {
			t.Errorf("TC saw %d of 5", got)
		}
	}
	apply(t, target, state(node("tc", feature.BestTC(t), "veth0")))
	info, err := l.Info()
	if err != nil || info.XDP().Ifindex != uint32(near.Attrs().Index) {
		t.Errorf("their link: %+v, %v", info, err)
	}
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
	apply(t, target, state(node("xdp-native", feature.BestTC(t), "veth0")))
	if got := shown(t, target, "veth0"); got.XDP != "native" || got.Error != "" || got.Note != "" {
		t.Errorf("after theirs went: %+v", got)
	}
}

// A driver without native XDP: asked for it, the status says so; otherwise
// generic is the next best.
func TestNativeRefused(t *testing.T) {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	w := newWorld(t)
	target := w.start()
	before := listing(t)
	apply(t, target, state(node("xdp-native", feature.BestTC(t), "br0")))
	got := shown(t, target, "br0")
	if got.XDP != "" || got.TC != feature.BestTC(t) || !strings.Contains(got.Error, "native XDP is refused: the driver has no XDP") {
		t.Errorf("xdp-native: %+v", got)
	}
	i := target.ifaces[uint32(bridge.Index)]
	if err := target.ensureXDP(i, "auto", []string{"native", "generic"}); err != nil {
		t.Fatal(err)
	}
	if got := i.show(); got.XDP != "generic" || got.Error != "" || !strings.Contains(got.Note, "native XDP is refused") {
		t.Errorf("native, then generic: %+v", got)
	}
	id := i.xdp
	if err := target.ensureXDP(i, "auto", []string{"native", "generic"}); err != nil || i.xdp != id {
		t.Errorf("the second time it was attached anew: %v", err)
	}
	apply(t, target, state(node("tc", feature.BestTC(t))))
	if after := listing(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// Filters of others run on, and keep the qdisc we made once they use it.
func TestForeignFilter(t *testing.T) {
	ns, near := veth(t)
	w := newWorld(t)
	target := w.start()
	tcCommand(t, "qdisc", "add", "dev", "veth0", "clsact")
	theirs := newCounter(t)
	theirFilter(t, target.kernel, near, 1, netlink.HANDLE_MIN_INGRESS, theirs)
	before := listing(t)
	s := state(node("tc", "clsact", "veth0"))
	apply(t, target, s)
	if got := shown(t, target, "veth0"); got.TC != "clsact" || !strings.Contains(got.Note, "priority 2") {
		t.Errorf("beside another filter: %+v", got)
	}
	if ours, them := grows(t, ns, w.tc, 5), grows(t, ns, theirs, 5); ours != 5 || them != 5 {
		t.Errorf("ours saw %d, theirs %d of 5", ours, them)
	}
	apply(t, target, state(node("tc", "clsact")))
	if after := listing(t); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	tcCommand(t, "qdisc", "del", "dev", "veth0", "clsact")

	apply(t, target, s) // now the qdisc is ours …
	theirFilter(t, target.kernel, near, 7, netlink.HANDLE_MIN_EGRESS, theirs)
	apply(t, target, state(node("tc", "clsact")))
	if got := listing(t); !strings.Contains(got, "clsact") || !strings.Contains(got, "pref 7") || strings.Contains(got, filterName) {
		t.Errorf("want their filter to stay, and ours to go:\n%s", got)
	}
	if got := pinNames(t, w.pins); len(got) != 0 { // … and theirs, once they use it
		t.Errorf("marks left: %v", got)
	}
}

// tcx beside a tcx program of somebody else: ours runs first, theirs runs.
func TestForeignTCX(t *testing.T) {
	feature.Needs(t, feature.TCX)
	ns, near := veth(t)
	w := newWorld(t)
	target := w.start()
	theirs := newCounter(t)
	l, err := link.AttachTCX(link.TCXOptions{Interface: near.Attrs().Index, Program: tcProgram(t, theirs), Attach: ebpf.AttachTCXIngress})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	apply(t, target, state(node("tc", feature.BestTC(t), "veth0")))
	if ours, them := grows(t, ns, w.tc, 5), grows(t, ns, theirs, 5); ours != 5 || them != 5 {
		t.Errorf("ours saw %d, theirs %d of 5", ours, them)
	}
	r, err := link.QueryPrograms(link.QueryOptions{Target: near.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := programID(w.programs.TC); len(r.Programs) != 2 || r.Programs[0].ID != id {
		t.Errorf("programs = %+v, want ours (%d) first", r.Programs, id)
	}
}

// theirFilter adds a filter of somebody else: of our kind and with our handle,
// which must not make it ours.
func theirFilter(t *testing.T, k *kernel, l netlink.Link, prio uint16, parent uint32, c counter) {
	t.Helper()
	o := (&filter{prio: prio, handle: filterHandle}).object(uint32(l.Attrs().Index), tcProgram(t, c))
	name := "theirs"
	o.Parent, o.BPF.Name = parent, &name
	if err := k.tc.Filter().Add(o); err != nil {
		t.Fatal(err)
	}
}

func tcCommand(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("tc", args...).CombinedOutput(); err != nil {
		t.Fatalf("tc %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// The constants of the ingress side are those go-tc and the kernel mean.
func TestHandles(t *testing.T) {
	if got := tc.HandleIngress &^ 0xffff; got != 0xffff0000 {
		t.Errorf("clsact handle = %#x", got)
	}
	if netlink.HANDLE_MIN_INGRESS != 0xffff0000|tc.HandleMinIngress {
		t.Errorf("ingress parent = %#x", uint32(netlink.HANDLE_MIN_INGRESS))
	}
}
