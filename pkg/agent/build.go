// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
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
	"github.com/fairlead-lb/fairlead/pkg/environment"
	"github.com/fairlead-lb/fairlead/pkg/health"
	"github.com/fairlead-lb/fairlead/pkg/ipam"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/runner/docker"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
	"github.com/fairlead-lb/fairlead/pkg/runner/process"
	"github.com/fairlead-lb/fairlead/pkg/source"
	labeled "github.com/fairlead-lb/fairlead/pkg/source/docker"
	"github.com/fairlead-lb/fairlead/pkg/source/file"
	"github.com/fairlead-lb/fairlead/pkg/standby"
	"github.com/fairlead-lb/fairlead/pkg/token"
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
	config := file.New(file.Config{Path: a.cfg.ConfigPath, Log: log, Checked: a.checked})
	a.checked = nil
	settings := newSettled(config)
	labels := labeled.New(labeled.Config{Settings: settings.docker, Define: defineBy(config), Log: log})
	p.instead = func(netip.AddrPort) string { return "" }
	keys, err := token.Open(token.Config{Path: tokensFile(state), Log: log})
	if err != nil {
		return p, err
	}
	told := a.told(keys)
	workloads := activator.New(activator.Config{
		Runners: a.runners(&p, hears(k.objects), told, settings.dockerHost), Log: log, SleepFile: sleepFile(state), Opened: a.opened, Pooled: func(addr netip.Addr) int { return p.pooled(addr) },
		InFlight: func() map[model.ServiceName]int { return p.inFlight() },
	})
	scrape := metrics.New(metrics.Config{Reader: a.reader(), Keys: keys, Build: a.cfg.Build, Log: log, Listen: a.sockets.listen("metrics")})
	closers = append(closers, func() { _ = scrape.Close() })
	page := dashboard.New(dashboard.Config{Views: a.page(), Log: log, Listen: a.sockets.listen("dashboard")})
	closers = append(closers, func() { _ = page.Close() })
	p.health = health.New(health.Config{Log: log, Signals: dataplane.NewSigns(k.objects), Prior: a.failed})
	if a.fronts == nil {
		if a.fronts, err = newFronts(a); err != nil {
			return p, err
		}
	}
	held, front, router, names := a.fronts.held, a.fronts.http, a.fronts.tcp, a.fronts.names
	a.fronts.asks.begin(&answers{
		over: a.over, wake: workloads.Wake, joined: workloads.Joined, why: workloads.Why, keys: keys.KeySet,
		enter: func(name model.ServiceName, cause, who string) (standby.Place, error) {
			return entered(workloads.Enter(name, cause, who))
		},
		certificates: certificates, instead: p.instead, listen: k.objects.Listen, replay: k.objects.Replay,
		own: func(why nexthop.Purpose, addrs []netip.Addr) error { _, err := links.Own(why, addrs); return err },
	})
	p.withdrawal = &withdrawal{}
	local := &renewal{}
	fatal := make(chan error, 1)
	p.fatal = fatal

	p.sources = []source.Source{required{settings, fatal}, labels, p.domains, drains, workloads.Source(), p.health, local, p.withdrawal}
	// No packet may be sent to a replica whose replies nobody translates yet.
	plane := &telling{Target: k.plane, tell: func(st *model.State) { workloads.Applied(st); held.Applied() }}
	p.targets = [][]reconcile.Target{{k.links, held}, {plane, workloads, p.health, router, scrape, page, front, certificates, names}}
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
		{"access tokens", told.Run},
	}
	p.naps, p.pooled, p.inFlight = workloads, front.Pooled, func() map[model.ServiceName]int { return inFlight(front.Counts()) }
	p.using, p.held, p.heldCounts = front.Uses, held.Connections, held.Counts
	p.locals = held.Used
	p.labelProblems = labels.Problems
	p.drains, p.replicas, p.shutdown = drains, workloads.Replicas, workloads.Shutdown
	p.reload, p.configError, p.configErrors = config.Reload, config.LastError, config.Errors
	p.stats, p.counts, p.flows = k.plane.Stats, k.plane.Counts, k.plane.Flows
	p.hop, p.tcp = k.hops.Known, router
	p.tokenProblems = func() []string { return slices.Concat(keys.Problems(), told.Problems()) }
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
func (a *Agent) runners(p *parts, listens listen.Watch, told *environment.Keeper, dockerHost func(context.Context) (string, error)) []activator.Runner {
	var out []activator.Runner
	lacks := func(driver string, err error) {
		a.cfg.Log.Error("workloads of a driver cannot run", "driver", driver, "error", err)
		p.problems = append(p.problems, fmt.Sprintf("workloads of driver %s cannot run: %s", driver, err))
	}
	r, err := process.New(process.Config{
		StateDir: workloadsState(a.cfg.StateDir), RunDir: workloadsRun(a.cfg.RunDir), Log: a.cfg.Log, Listens: listens,
		Environment: func(s activator.Spec, id string) (map[string]string, error) { return told.Environment(s, id, "") },
		Forget:      told.Forget,
		Resolver:    func() string { return dnsserver.ResolvConf(a.engine.state(), "") },
		Network: func() (v4, v6 netip.Prefix) {
			n := a.engine.state().Settings.Network
			return n.Workloads, n.Workloads6
		},
	})
	if err != nil {
		lacks("process", err)
	} else {
		out, p.instead = append(out, r), r.Listening
	}
	d, err := docker.New(docker.Config{
		RunDir: workloadsRun(a.cfg.RunDir), Host: dockerHost, Listens: listens, Log: a.cfg.Log, Forget: told.Forget,
		Environment: func(s activator.Spec, id string, local bool) (map[string]string, string, error) {
			if !local {
				env, err := told.Remote(s, id)
				return env, "", err
			}
			env, err := told.Environment(s, id, docker.FilesAt)
			return env, told.Dir(id), err
		},
		DNS: func() []netip.Addr { return containerDNS(a.engine.state()) },
	})
	if err != nil {
		lacks("docker", err)
	} else {
		instead := p.instead
		out, p.instead = append(out, d), func(to netip.AddrPort) string { return cmp.Or(instead(to), d.Listening(to)) }
	}
	return out
}

// entered keeps a place that was not given from becoming one that is nil.
func entered(p *activator.Place, err error) (standby.Place, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// hears has runners told of sockets that the programs see.
func hears(o *bpf.Objects) listen.Watch {
	return func(cgroup string, notify func(listen.Heard)) (io.Closer, error) {
		return o.WatchListens(cgroup, func(l bpf.Listen) { notify(listen.Heard(l)) })
	}
}

// told is what replicas are told by, of all drivers.
func (a *Agent) told(keys *token.Ring) *environment.Keeper {
	return environment.New(environment.Config{
		Dir: tokensRun(a.cfg.RunDir), Log: a.cfg.Log, Issue: keys.Issue, KeySet: keys.KeySet,
		Replicas: func() []activator.Replica { return a.parts.replicas() }, State: func() *model.State { return a.engine.state() },
	})
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
