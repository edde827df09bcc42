// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/test/feature"
)

// Detach leaves the host as it was before, whatever an agent attached.
func TestDetach(t *testing.T) {
	dir := newCgroup(t, "detach")
	_, _ = veth(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0.7"}} // a dot, as in VLAN names
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(bridge) })
	w := newWorld(t)
	w.programs.Cgroup = map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachCGroupInet4Connect: hook(t, newCounter(t), ebpf.AttachCGroupInet4Connect),
	}
	before, links := listing(t), linkIDs(t)
	for _, tc := range []struct {
		mode    string
		removed []string
	}{
		{"tcx", []string{"XDP program of veth0", "connect4 hook of the cgroup", "tcx program of br0.7", "tcx program of veth0"}},
		{"clsact", []string{"XDP program of veth0", "clsact program of br0.7", "clsact program of veth0", "connect4 hook of the cgroup"}},
	} {
		if !slices.Contains(feature.WaysTC(t), tc.mode) {
			continue
		}
		target := w.start()
		n := node("xdp-native", tc.mode, "veth0", "br0.7")
		n.Cgroup = &dir
		apply(t, target, state(n))
		if got := shown(t, target, "br0.7"); got.TC != tc.mode {
			t.Errorf("br0.7: %+v", got)
		}
		target.Close()
		removed, err := Detach(w.pins)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(removed)
		if !slices.Equal(removed, tc.removed) {
			t.Errorf("%s: removed %q, want %q", tc.mode, removed, tc.removed)
		}
		if after := listing(t); after != before {
			t.Errorf("%s: left behind:\n%s\nbefore:\n%s", tc.mode, after, before)
		}
		if got := linkIDs(t); len(got) != len(links) {
			t.Errorf("%s: links %v, before %v", tc.mode, got, links)
		}
		if got := pinNames(t, w.pins); len(got) != 0 {
			t.Errorf("%s: pins %v", tc.mode, got)
		}
	}
	if removed, err := Detach(w.pins); err != nil || len(removed) != 0 {
		t.Errorf("twice: removed %v, %v", removed, err)
	}
	if removed, err := Detach(filepath.Join(w.pins, "none")); err != nil || len(removed) != 0 {
		t.Errorf("without a pin directory: removed %v, %v", removed, err)
	}
}

func TestBPFFS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "some where", "bpf")
	mounted, err := EnsureBPFFS(dir)
	if err != nil || !mounted {
		t.Fatalf("EnsureBPFFS = %v, %v", mounted, err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("mode = %v, %v", st.Mode(), err)
	}
	inner := filepath.Join(dir, "inner")
	for _, again := range []string{dir, inner} {
		if mounted, err := EnsureBPFFS(again); err != nil || mounted {
			t.Errorf("EnsureBPFFS(%s) = %v, %v; want nothing to do", again, mounted, err)
		}
	}
	if err := UnmountBPFFS(inner); err != nil {
		t.Fatal(err)
	}
	if on, err := onBPFFS(dir); err != nil || !on {
		t.Errorf("the outer bpffs went with the inner directory: %v, %v", on, err)
	}
	if _, err := os.Stat(inner); err == nil {
		t.Error("the inner directory stays")
	}
	if err := UnmountBPFFS(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory stays")
	}
	if err := UnmountBPFFS(dir); err != nil {
		t.Errorf("twice: %v", err)
	}
}

func TestParseMounts(t *testing.T) {
	const info = `25 30 0:23 / /sys rw,nosuid - sysfs sysfs rw
36 25 0:30 / /sys/fs/cgroup/unified rw shared:11 - cgroup2 cgroup2 rw
37 25 0:31 / /run/some\040where/bpf rw shared:12 master:3 - bpf bpf rw,mode=700
broken line
38 25 0:32 / /mnt rw - ext4 /dev/x - cgroup2
`
	for fstype, want := range map[string]string{
		"cgroup2": "/sys/fs/cgroup/unified", "bpf": "/run/some where/bpf", "ext4": "/mnt", "tmpfs": "",
	} {
		if got := strings.Join(parseMounts(info, fstype), ","); got != want {
			t.Errorf("%s: %q, want %q", fstype, got, want)
		}
	}
}

// The doctor changes nothing and explains whatever is missing.
func TestProbe(t *testing.T) {
	_, _ = veth(t)
	before, links := listing(t), linkIDs(t)
	facts := Probe()
	if got := listing(t); got != before || len(linkIDs(t)) != len(links) {
		t.Errorf("Probe changed\n%s\nto\n%s", before, got)
	}
	found := map[string]Fact{}
	for _, f := range facts {
		t.Logf("%+v", f)
		found[f.Name] = f
		if !f.OK && (f.Value == "" || f.Lost == "" || f.Fix == "") {
			t.Errorf("%+v: want what is lost and what to do", f)
		}
		if f.OK && (f.Lost != "" || f.Fix != "") {
			t.Errorf("%+v: nothing is lost", f)
		}
	}
	for _, name := range []string{"kernel", "CAP_NET_ADMIN", "CAP_BPF", "XDP programs", "TC programs", "cgroup2", "bpffs"} {
		if !found[name].OK {
			t.Errorf("%s: %+v, want it here", name, found[name])
		}
	}
	for _, name := range []string{"tcx", "connect refusals", "namespace of connect hooks", "packets too big for a link"} {
		if _, ok := found[name]; !ok {
			t.Errorf("nothing about %s", name)
		}
	}
	if feature.Has(t, feature.CheckMTU) != found["packets too big for a link"].OK {
		t.Errorf("packets too big: %+v, but the kernel answers otherwise", found["packets too big for a link"])
	}
	if feature.Has(t, feature.SetRetval) != found["connect refusals"].OK {
		t.Errorf("connect refusals: %+v, but the kernel answers otherwise", found["connect refusals"])
	}
	if feature.Has(t, feature.TCX) != found["tcx"].OK {
		t.Errorf("tcx: %+v, but the kernel answers otherwise", found["tcx"])
	}
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.0-30-amd64": true, "5.9.16": false, "6.18.44-fc-v769": true, "4.19": false, "6.1": true, "5.10-rc1": true, "x": false, "7.": false,
	} {
		if got := atLeast(release, 5, 10); got != want {
			t.Errorf("atLeast(%q) = %v", release, got)
		}
	}
}

// Who may not ask is not told that the kernel lacks something.
func TestTCXFact(t *testing.T) {
	for _, tc := range []struct {
		err         error
		mayAsk      bool
		ok, unknown bool
	}{
		{nil, true, true, false},
		{link.ErrNotSupported, true, false, false},
		{link.ErrNotSupported, false, false, true},
		{os.ErrPermission, true, false, true},
	} {
		if f := tcxFact(tc.err, tc.mayAsk); f.OK != tc.ok || f.Unknown != tc.unknown || (f.Value == needsRoot) != tc.unknown {
			t.Errorf("%v, may ask: %v: %+v", tc.err, tc.mayAsk, f)
		}
	}
}
