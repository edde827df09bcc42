// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/attach"
	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dashboard"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/dnsserver"
	"github.com/fairlead-lb/fairlead/pkg/domain"
	"github.com/fairlead-lb/fairlead/pkg/health"
	"github.com/fairlead-lb/fairlead/pkg/ipam"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/runner/process"
	"github.com/fairlead-lb/fairlead/pkg/source"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
)

// build makes every source and target of a term. A new front is one more line
// in targets, a new source one more in sources.
func build(a *Agent) (p parts, err error) {
	var closers []func()
	p.close = func() {
		for _, c := range slices.Backward(closers) {
			c()
		}
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	log, state := a.cfg.Log, a.cfg.StateDir
	k, err := openKernel(a.cfg, a.early, &closers)
	a.early = nil
	if err != nil {
		return p, err
	}
	drains, err := admin.NewDrains(admin.DrainsConfig{Path: drainsFile(state), Log: log})
	if err != nil {
		return p, err
	}
	certificates, err := autocert.New(autocert.Config{StateDir: certificatesState(state), Log: log})
	if err != nil {
		return p, err
	}
	closers = append(closers, func() { _ = certificates.Close() })
	if p.domains, err = domain.New(domain.Config{Path: domainsFile(state), Log: log}); err != nil {
		return p, err
	}
	links := k.hops.Links()
	config := file.New(file.Config{Path: a.cfg.ConfigPath, Log: log})
	p.instead = func(netip.AddrPort) string { return "" }
	workloads := activator.New(activator.Config{
		Runners: a.runners(&p, k.objects.WatchListens), Log: log, SleepFile: sleepFile(state), Opened: a.opened, Pooled: func(addr netip.Addr) int { return p.pooled(addr) },
	})
	scrape := metrics.New(metrics.Config{Reader: a.reader(), Build: a.cfg.Build, Log: log, Listen: a.sockets.listen("metrics")})
	closers = append(closers, func() { _ = scrape.Close() })
	page := dashboard.New(dashboard.Config{Views: a.page(), Log: log, Listen: a.sockets.listen("dashboard")})
	closers = append(closers, func() { _ = page.Close() })
	p.health = health.New(health.Config{Log: log, Signals: dataplane.NewSigns(k.objects), Prior: a.failed})
	if a.fronts == nil {
		if a.fronts, err = newFronts(a); err != nil {
			return p, err
		}
	}
	front, router, names := a.fronts.http, a.fronts.tcp, a.fronts.names
	a.fronts.asks.begin(&answers{
		over: a.over, wake: workloads.Wake, certificates: certificates, instead: p.instead, listen: k.objects.Listen,
		own: func(why nexthop.Purpose, addrs []netip.Addr) error { _, err := links.Own(why, addrs); return err },
	})
	p.withdrawal = &withdrawal{}
	local := &renewal{}
	fatal := make(chan error, 1)
	p.fatal = fatal

	p.sources = []source.Source{required{config, fatal}, p.domains, drains, workloads.Source(), p.health, local, p.withdrawal}
	// No packet may be sent to a replica whose replies nobody translates yet.
	plane := &told{Target: k.plane, tell: workloads.Applied}
	p.targets = [][]reconcile.Target{{k.links, a.fronts.held}, {plane, workloads, p.health, router, scrape, page, front, certificates, names}}
	p.forward = []reconcile.Target{plane}
	p.frontAddrs = front.Addrs
	p.drainFronts, p.requests = front.Shutdown, func() []metrics.Requests { return requestsOf(front.Counts()) }
	taken := &ownAddress{local: links.Local}
	p.complete = taken.before(ipam.New(ipam.Config{Path: vipsFile(state), Log: log, Local: taken.list}).Complete)
	p.workers = []worker{
		{"next hops", func(ctx context.Context) error {
			return k.hops.Run(ctx, func(c nexthop.Change) { a.engine.follow(c, plane, k.links, local.again) })
		}},
		{"interfaces", func(ctx context.Context) error {
			return k.links.Watch(ctx, func() { a.engine.follow(nexthop.Change{Tracked: true, Addrs: true}, plane, k.links, local.again) })
		}},
		{"flows", k.plane.Run},
	}
	p.naps, p.pooled = workloads, front.Pooled
	p.drains, p.replicas, p.shutdown = drains, workloads.Replicas, workloads.Shutdown
	p.reload, p.configError, p.configErrors = config.Reload, config.LastError, config.Errors
	p.stats, p.flows = k.plane.Stats, k.plane.Flows
	p.hop, p.tcp = k.hops.Known, router
	p.certificates, p.questions = certificates.Status, names.Counts
	p.loaded = certificates.Loaded
	p.trace, p.nodeAddrs = k.objects.Trace, k.nodeAddrs
	p.attached = func() ([]admin.Interface, []admin.Cgroup) { return attached(k.links) }
	return p, nil
}

// kernel is what of an agent outlives it: maps, links and what feeds them.
type kernel struct {
	objects *bpf.Objects
	hops    *nexthop.Table
	plane   *dataplane.Target
	links   *attach.Target
}

// nodeAddrs lists the node's public addresses on the interfaces.
func (k *kernel) nodeAddrs(interfaces []string) ([]netip.Addr, error) {
	return nodeAddrs(k.hops.Links(), interfaces)
}

// openObjects loads the programs over the maps that an earlier agent pinned. It
// writes no map: a successor does it before it asks for the place.
func openObjects(cfg Config) (*bpf.Objects, error) {
	log, run := cfg.Log, cfg.RunDir
	if _, err := attach.EnsureBPFFS(pinDir(run)); err != nil {
		return nil, err
	}
	for _, dir := range []string{objectPins(run), linkPins(run)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make pin directory: %w", err)
		}
	}
	objects, err := bpf.Open(bpf.Config{PinDir: objectPins(run), Log: log})
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	return objects, nil
}

// openKernel adopts what an earlier agent left in the kernel; objects are nil if
// they are not open yet. What must be closed is added to closers, also when it
// fails.
func openKernel(cfg Config, objects *bpf.Objects, closers *[]func()) (k kernel, err error) {
	log, run := cfg.Log, cfg.RunDir
	if objects == nil {
		if objects, err = openObjects(cfg); err != nil {
			return k, err
		}
	}
	k.objects = objects
	*closers = append(*closers, func() { _ = objects.Close() })
	if k.hops, err = nexthop.New(nexthop.Config{Log: log}); err != nil {
		return k, fmt.Errorf("follow routes: %w", err)
	}
	*closers = append(*closers, k.hops.Close)
	k.plane, err = dataplane.New(dataplane.Config{Maps: objects, Hops: k.hops, Log: log, NodeAddrs: k.nodeAddrs})
	if err != nil {
		return k, fmt.Errorf("adopt maps: %w", err)
	}
	k.links, err = attach.New(attach.Config{
		Programs: attach.Programs(objects.Programs()), PinDir: linkPins(run), Ifaces: objects, Hops: k.hops, Log: log,
	})
	if err != nil {
		return k, fmt.Errorf("adopt links: %w", err)
	}
	*closers = append(*closers, k.links.Close)
	return k, nil
}

// runners makes those drivers that this host can run. One that it cannot is
// no reason not to balance the rest: its workloads are reported as not served.
func (a *Agent) runners(p *parts, listens func(string, func()) (io.Closer, error)) []activator.Runner {
	var out []activator.Runner
	r, err := process.New(process.Config{
		StateDir: workloadsState(a.cfg.StateDir), RunDir: workloadsRun(a.cfg.RunDir), Log: a.cfg.Log, Listens: listens,
		Resolver: func() string { return dnsserver.ResolvConf(a.engine.state(), "") },
		Network: func() (v4, v6 netip.Prefix) {
			n := a.engine.state().Settings.Network
			return n.Workloads, n.Workloads6
		},
	})
	if err != nil {
		a.cfg.Log.Error("workloads of driver process cannot run", "error", err)
		p.problems = append(p.problems, "workloads of driver process cannot run: "+err.Error())
	} else {
		out, p.instead = append(out, r), r.Listening
	}
	return out
}

// attached shows which interface and cgroup carries which program.
func attached(t *attach.Target) ([]admin.Interface, []admin.Cgroup) {
	var interfaces []admin.Interface
	for _, i := range t.Interfaces() {
		interfaces = append(interfaces, admin.Interface{
			Name: i.Name, Index: i.Index, Role: i.Role, XDP: i.XDP, TC: i.TC,
			Slot: uint32(i.Slot), Note: i.Note, Error: i.Error,
		})
	}
	var cgroups []admin.Cgroup
	if path, hooks, note := t.Cgroup(); path != "" || note != "" {
		cgroups = append(cgroups, admin.Cgroup{Path: path, Hooks: hooks, Note: note})
	}
	return interfaces, cgroups
}
