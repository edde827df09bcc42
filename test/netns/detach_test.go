// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestDetachLeavesNothing: after `fairlead detach` the host is as it was: no
// program, map, link, pin, mount, interface, route, rule, sysctl or cgroup.
func TestDetachLeavesNothing(t *testing.T) {
	t.Run("after kill -9", func(t *testing.T) {
		lab.Each(t, func(t *testing.T, l *lab.Lab) { testDetach(t, l, (*lab.Agent).Kill) })
	})
	t.Run("after SIGTERM", func(t *testing.T) {
		lab.Some(t, []string{"clsact", "xdp-native"}, func(t *testing.T, l *lab.Lab) { testDetach(t, l, (*lab.Agent).Stop) })
	})
}

func testDetach(t *testing.T, l *lab.Lab, end func(*lab.Agent, testing.TB)) {
	l.Serve(t)
	config := trafficConfig(l)
	worker := service(l, 30, "shop/worker", "90", "8090", "tcp")
	worker.Workload = workload("--http", ":8090")
	config.Services = append(config.Services, worker)
	a := lab.NewAgent(t, l.Node, l.Mode)
	a.Write(t, config)
	// The kernel gives interfaces their own IPv6 addresses a moment after they are up.
	lab.Poll(t, 10*time.Second, func() error {
		if strings.Contains(l.Node.Run(t, "ip", "-6", "addr", "show", "tentative"), "inet6") {
			return lab.ErrNotYet
		}
		return nil
	})
	before := listing(t, l, a)
	a.Run(t)
	a.WaitReady(t, 0)
	cgroups := cgroupsOf(t, waitReplicas(t, a, "shop/worker", 2))
	_, err := curl(l.Client, "http://"+vip(lab.V4, 10, 90).String()+"/")
	must(t, err)
	during := listing(t, l, a)
	if slices.Equal(before, during) {
		t.Fatal("the listing shows nothing of a running agent: it would prove nothing")
	}
	objects := bpfObjects(t, a)
	if len(objects) < 3 {
		t.Fatalf("the agent holds and pins only %v", objects)
	}
	end(a, t)
	if end := a.CLI(t, "detach"); end == "" {
		t.Error("detach says nothing of what it removed")
	}
	// The kernel frees some of it a moment later.
	lab.Poll(t, 10*time.Second, func() error {
		if left := alive(objects); len(left) > 0 {
			return fmt.Errorf("still in the kernel: %v", left)
		}
		for _, dir := range cgroups {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cgroup %s is still there", dir)
			}
		}
		if after := listing(t, l, a); !slices.Equal(before, after) {
			return fmt.Errorf("the host differs from before:\n%s", difference(before, after))
		}
		return nil
	}, a.Log)
	if out := a.CLI(t, "detach"); strings.Contains(out, "removed") {
		t.Errorf("a second detach still finds something: %s", out)
	}
}

// cgroupsOf lists the cgroups of the replicas and what holds these cgroups.
func cgroupsOf(t *testing.T, replicas []lab.WorkloadView) []string {
	t.Helper()
	var dirs []string
	for _, r := range replicas {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", r.PID))
		must(t, err)
		for line := range strings.Lines(string(b)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok {
				own := filepath.Join(lab.CgroupRoot(), path)
				dirs = append(dirs, own, filepath.Dir(own))
			}
		}
	}
	if len(dirs) < 2*len(replicas) || slices.Contains(dirs, lab.CgroupRoot()) {
		t.Fatalf("cgroups of the replicas are %v, wanted one each, below one of fairlead's", dirs)
	}
	return dirs
}

// listing is what the host shows of the agent: its namespace, its cgroups, the
// mounts and files of its run directory.
func listing(t *testing.T, l *lab.Lab, a *lab.Agent) []string {
	t.Helper()
	script, err := filepath.Abs("../../scripts/leftovers.sh")
	must(t, err)
	out := l.Node.Run(t, script, "here", a.Cgroup, a.Path("run"))
	lines := strings.Split(out, "\n")
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, a.Dir) {
			lines = append(lines, "mount "+line)
		}
	}
	return slices.DeleteFunc(lines, func(line string) bool {
		// The empty run directory and its lock may stay, as /run/fairlead does;
		// and neighbours come and go.
		for _, path := range []string{"", "/fairlead.lock"} {
			if line == "file "+a.Path("run")+path {
				return true
			}
		}
		return line == "" || line == "file "+filepath.Join(a.Cgroup, "clients") || strings.Contains(line, "/clients/")
	})
}

func difference(before, after []string) string {
	var b strings.Builder
	for _, line := range before {
		if !slices.Contains(after, line) {
			fmt.Fprintln(&b, "gone:", line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			fmt.Fprintln(&b, "new: ", line)
		}
	}
	return b.String()
}

// object is a program, map or link by its kernel id.
type object struct {
	kind string
	id   uint32
}

// bpfObjects lists what the agent holds by descriptor and by pin.
func bpfObjects(t *testing.T, a *lab.Agent) []object {
	t.Helper()
	found := map[object]bool{}
	infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", a.PID()))
	for _, path := range infos {
		info, _ := os.ReadFile(path)
		for line := range strings.Lines(string(info)) {
			for _, kind := range []string{"prog", "map", "link"} {
				var id uint32
				if n, _ := fmt.Sscanf(line, kind+"_id: %d", &id); n == 1 && id != 0 {
					found[object{kind, id}] = true
				}
			}
		}
	}
	_ = filepath.WalkDir(a.Path("run"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if o, ok := pinned(path); ok {
				found[o] = true
			}
		}
		return nil
	})
	var list []object
	for o := range found {
		list = append(list, o)
	}
	return list
}

func pinned(path string) (object, bool) {
	if m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true}); err == nil {
		defer m.Close()
		if info, err := m.Info(); err == nil {
			id, _ := info.ID()
			return object{"map", uint32(id)}, true
		}
	}
	if p, err := ebpf.LoadPinnedProgram(path, nil); err == nil {
		defer p.Close()
		if info, err := p.Info(); err == nil {
			id, _ := info.ID()
			return object{"prog", uint32(id)}, true
		}
	}
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		defer l.Close()
		if info, err := l.Info(); err == nil {
			return object{"link", uint32(info.ID)}, true
		}
	}
	return object{}, false
}

// alive lists those that the kernel still has.
func alive(objects []object) []object {
	return slices.DeleteFunc(slices.Clone(objects), func(o object) bool {
		var err error
		switch o.kind {
		case "map":
			var m *ebpf.Map
			if m, err = ebpf.NewMapFromID(ebpf.MapID(o.id)); err == nil {
				m.Close()
			}
		case "prog":
			var p *ebpf.Program
			if p, err = ebpf.NewProgramFromID(ebpf.ProgramID(o.id)); err == nil {
				p.Close()
			}
		case "link":
			var k link.Link
			if k, err = link.NewFromID(link.ID(o.id)); err == nil {
				k.Close()
			}
		}
		return err != nil
	})
}
