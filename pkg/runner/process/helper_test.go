// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

const patience = 20 * time.Second

var (
	prefix4 = netip.MustParsePrefix("10.66.0.0/24")
	prefix6 = netip.MustParsePrefix("fd66::/112")
	shop    = model.ServiceName{Project: "shop", User: "web"}
)

func testConfig(dir string) Config {
	return Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Cgroup:  os.Getenv(cgroupVar),
		Network: func() (v4, v6 netip.Prefix) { return prefix4, prefix6 },
		Log:     slog.New(slog.DiscardHandler),
	}
}

// echoSpec is a workload that answers on the given listen addresses; port is
// what the config says.
func echoSpec(port uint16, listen string) activator.Spec {
	return activator.Spec{
		Service: shop, Replicas: 1,
		Ports: []model.Port{{Service: 80, Container: port, Protocol: model.TCP}},
		Workload: model.Workload{
			Driver: "process", Command: []string{"fairlead"},
			Env: map[string]string{roleVar: roleEcho, listenVar: listen},
		},
	}
}

func shell(script string) activator.Spec {
	s := echoSpec(8090, "")
	s.Workload.Command = []string{"sh", "-c", script}
	return s
}

// bench is a Runner under test.
type bench struct {
	*Runner
	t       *testing.T
	changed chan struct{}
	abandon func() // ends Run and leaves the replicas
}

// start runs a Runner over dir until the test ends, and then shuts it down.
func start(t *testing.T, cfg Config) *bench {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Runner: r, t: t, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, func() {
			select {
			case b.changed <- struct{}{}:
			default:
			}
		})
	}()
	abandoned := false
	b.abandon = func() {
		if abandoned {
			return
		}
		abandoned = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(func() {
		b.abandon()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return b
}

func (b *bench) apply(specs ...activator.Spec) {
	b.t.Helper()
	if err := b.Apply(b.t.Context(), specs); err != nil {
		b.t.Fatal(err)
	}
}

// await returns the replicas as soon as ok accepts them.
func (b *bench) await(what string, ok func([]activator.Replica) bool) []activator.Replica {
	b.t.Helper()
	deadline := time.After(patience)
	for {
		all := b.Replicas()
		if ok(all) {
			return all
		}
		select {
		case <-b.changed:
		case <-deadline:
			b.t.Fatalf("no %s after %s; there is %+v", what, patience, all)
		}
	}
}

// one awaits a single replica that ok accepts.
func (b *bench) one(what string, ok func(activator.Replica) bool) activator.Replica {
	b.t.Helper()
	return b.await(what, func(all []activator.Replica) bool { return len(all) == 1 && ok(all[0]) })[0]
}

func isReady(rep activator.Replica) bool { return rep.Phase == activator.Ready }

func says(text string) func(activator.Replica) bool {
	return func(rep activator.Replica) bool { return strings.Contains(rep.Reason, text) }
}

func fetch(t *testing.T, addr netip.Addr, port uint16) string {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + netip.AddrPortFrom(addr, port).String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// world lists everything a Runner could leave behind, but logs and addresses.
func world(t *testing.T, cfg Config) []string {
	t.Helper()
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		add("link %s", l.Attrs().Name)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			add("route %s table %d", r.Dst, r.Table)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		add("mount %s", strings.Fields(line)[4])
	}
	for _, root := range []string{cfg.Cgroup, cfg.RunDir} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && (d.IsDir() || root == cfg.RunDir) && path != root {
				add("file %s", path)
			}
			return nil
		})
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if what, err := os.Readlink(fd); err == nil && !strings.HasPrefix(what, "anon_inode:[event") { // the poller's own
			add("descriptor %s", what)
		}
	}
	for _, pid := range processes(t) {
		add("process %d", pid)
	}
	slices.Sort(all)
	return all
}

// processes lists those of the tests' PID namespace that are not dead.
func processes(t *testing.T) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		b, err2 := os.ReadFile(path)
		if err == nil && err2 == nil && !strings.Contains(string(b), ") Z ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unchanged returns a check that the world is as it is now.
func unchanged(t *testing.T, cfg Config) func() {
	t.Helper()
	before := world(t, cfg)
	return func() {
		t.Helper()
		// Another test's last goroutine may have a file of /proc open just now.
		diff := cmp.Diff(before, world(t, cfg))
		for end := time.Now().Add(2 * time.Second); diff != "" && time.Now().Before(end); diff = cmp.Diff(before, world(t, cfg)) {
			time.Sleep(10 * time.Millisecond)
		}
		if diff != "" {
			t.Errorf("the world is not as before (-before +after):\n%s", diff)
		}
	}
}
