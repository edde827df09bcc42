// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/dashboard"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/ingress"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// views is what the admin socket shows.
func (a *Agent) views() admin.Views {
	return admin.Views{
		Status: a.status, Services: a.services, Workloads: a.workloads, Flows: a.flows, Drain: a.drainAddress,
		Sleep:        a.sleepVerb,
		Uses:         a.usesOf,
		Trace:        a.trace,
		Upgrade:      a.upgrade,
		Domains:      a.domainList,
		Domain:       a.domain,
		Certificates: a.certificates,
	}
}

// page is what the dashboard shows: the views of the admin socket.
func (a *Agent) page() dashboard.Views {
	return dashboard.Views{
		Status:       func() any { return a.status() },
		Services:     func() any { return a.services() },
		Workloads:    func() any { return a.workloads() },
		Domains:      func() any { return a.domainList() },
		Certificates: func() any { return a.certificates() },
		Requests: func() []dashboard.Requests {
			var out []dashboard.Requests
			for _, r := range a.parts.requests() {
				out = append(out, dashboard.Requests{Service: r.Service, Codes: r.Codes})
			}
			return out
		},
	}
}

// reader is what a scrape of the metrics reads.
func (a *Agent) reader() metrics.Reader {
	return metrics.Reader{
		Agent: func() metrics.Agent {
			return metrics.Agent{Generation: a.engine.state().Generation, ConfigErrors: a.parts.configErrors()}
		},
		Traffic:  a.traffic,
		Backends: a.backends,
		Router:   a.routed,
		Requests: func() []metrics.Requests { return a.parts.requests() },
		Behind:   func() []string { s := a.progress(); return s.Behind() },

		Certificates: a.expiries,
		Wakes:        a.wakes,
		Held:         a.heldCounts,
		Questions: func() map[string]uint64 {
			out := map[string]uint64{}
			for _, c := range a.parts.questions() {
				out[c.Result] = c.Count
			}
			return out
		},
	}
}

// progress is the part of the status that tells how far the targets are.
func (a *Agent) progress() admin.Status {
	s := admin.Status{Sources: a.engine.merge.Statuses(), Config: admin.Config{Generation: a.engine.state().Generation}}
	for _, l := range a.engine.loops {
		s.Targets = append(s.Targets, l.Status())
	}
	return s
}

func (a *Agent) status() admin.Status {
	state := a.engine.state()
	s := a.progress()
	s.Version, s.PID = a.cfg.Build.Version, os.Getpid()
	s.RunDir, s.StateDir = a.cfg.RunDir, a.cfg.StateDir
	s.StartedAt, s.UptimeSeconds = a.begun.UTC().Round(time.Millisecond), time.Since(a.begun).Seconds()
	s.Config.Path, s.Config.Errors = a.cfg.ConfigPath, a.parts.configErrors()
	if err := a.parts.configError(); err != nil {
		s.Config.Error = err.Error()
	}
	select {
	case <-a.stopping:
		s.Stopping = true
	default:
	}
	s.Older, s.Upgrade = a.older.list(), a.taken.list()
	select {
	case <-a.begin:
	default:
		s.Entering = a.taking
	}
	s.Counts.Services = len(state.Services)
	replicas := a.countReplicas(state, &s.Counts)
	s.Interfaces, s.Cgroups = a.parts.attached()
	s.Drains = a.parts.drains.List()
	s.Front = a.front(state)
	s.Problems = slices.Concat(a.parts.problems, a.engine.problems(), a.parts.labelProblems(), a.parts.health.Problems(), a.parts.tcp.Problems(),
		a.namesTrouble(), replicas, a.certificateProblems(), a.failingWorkloads(), a.parts.tokenProblems(), a.parts.naps.Problems())
	if st, err := a.parts.stats(); err != nil {
		s.Problems = append(s.Problems, "read counters: "+err.Error())
	} else {
		s.Counts.Flows, s.Counts.FlowLimit, s.Counts.Evictions = st.Flows, st.FlowLimit, st.Evictions
		s.Packets = packetsOf(st.Packets, s.Interfaces)
	}
	for _, n := range a.engine.missing() {
		s.NotServedYet = append(s.NotServedYet, admin.NotServed{Feature: string(n.feature), Services: n.services})
	}
	s.Judge()
	return s
}

// front shows where the HTTP front listens and how many names it serves.
func (a *Agent) front(state *model.State) (f admin.Front) {
	hosts := map[string]bool{}
	for i := range state.Services {
		for _, h := range state.Services[i].HTTP {
			hosts[h.Host] = true
		}
	}
	f.Hosts = len(hosts)
	plain, secure := a.parts.frontAddrs()
	if plain != nil {
		f.HTTP = plain.String()
	}
	if secure != nil {
		f.HTTPS = secure.String()
	}
	return f
}

// looking bounds how long one view looks into the replicas of workloads.
const looking = 500 * time.Millisecond

func (a *Agent) services() []admin.Service {
	state := a.engine.state()
	type key struct {
		name  model.ServiceName
		port  uint16
		proto model.Protocol
	}
	counts := map[key]dataplane.ServiceCount{}
	if st, err := a.parts.stats(); err == nil { // status tells of an error
		for _, c := range st.Services {
			counts[key{c.Service, c.Port.Service, c.Port.Protocol}] = c
		}
	}
	lacking := map[string][]string{}
	for _, n := range a.engine.missing() {
		for _, svc := range n.services {
			lacking[svc] = append(lacking[svc], string(n.feature))
		}
	}
	last, names, naps, sizes := a.lastResorts(), a.names(), a.parts.naps.Naps(), a.parts.naps.Sizes()
	until := time.Now().Add(looking)
	out := make([]admin.Service, len(state.Services))
	for i := range state.Services {
		m := state.Services[i]
		svc := admin.NewService(m)
		svc.NotServedYet = append(svc.NotServedYet, lacking[svc.Name]...)
		svc.LastResort = last[svc.Name]
		svc.Names = names[svc.Name]
		if z, ok := sizes[m.Name]; ok {
			svc.Scale = scaleOf(z)
		}
		if n, ok := naps[m.Name]; ok {
			svc.Sleep = napOf(n)
			if n.Stage == "stopped" {
				svc.Wanted = 0
			}
		}
		a.show(state.Settings.Node, m, &svc, until)
		for j, p := range m.Ports {
			c := counts[key{m.Name, p.Service, p.Protocol}]
			to := &svc.Ports[j]
			to.Connections, to.Active = c.Connections, c.Active
			to.PacketsIn, to.PacketsOut, to.BytesIn, to.BytesOut = c.PacketsIn, c.PacketsOut, c.BytesIn, c.BytesOut
		}
		out[i] = svc
	}
	return out
}

func (a *Agent) workloads() []admin.Workload {
	replicas := a.parts.replicas()
	out := make([]admin.Workload, len(replicas))
	for i, r := range replicas {
		out[i] = admin.Workload{
			ID: r.ID, Service: r.Service.String(), Driver: r.Driver, Phase: string(r.Phase), Reason: r.Reason,
			Addr4: r.Addr4, Addr6: r.Addr6, PID: r.PID, Since: r.Since, Next: r.Next, Restarts: r.Restarts, Log: r.Log,
		}
	}
	return out
}

func (a *Agent) flows(ctx context.Context, q admin.FlowQuery, yield func(admin.Flow) bool) error {
	f := dataplane.FlowFilter{Client: q.Client, Backend: q.Backend, Limit: q.Limit}
	if q.Service != "" {
		name, err := model.ParseServiceName(q.Service)
		if err != nil {
			return err
		}
		f.Service = name
	}
	return a.parts.flows(ctx, f, func(f dataplane.Flow) bool {
		return yield(admin.Flow{
			Service: f.Service.String(), Protocol: f.Protocol.String(),
			Client: f.Client, VIP: f.VIP, Backend: f.Backend, Source: f.Source, State: f.State, IdleSeconds: f.Idle.Seconds(),
		})
	})
}

// drainAddress drains, and counts what is still established to the address.
func (a *Agent) drainAddress(ctx context.Context, r admin.DrainRequest) (admin.DrainResult, error) {
	res, err := a.parts.drains.Set(a.engine.state(), r)
	if err != nil {
		return res, err
	}
	addr, err := netip.ParseAddr(res.Address)
	port := uint16(0)
	if err != nil {
		ap, err := netip.ParseAddrPort(res.Address)
		if err != nil {
			return res, err
		}
		addr, port = ap.Addr(), ap.Port()
	}
	byService := map[model.ServiceName]int{}
	err = a.parts.flows(ctx, dataplane.FlowFilter{Backend: addr}, func(f dataplane.Flow) bool {
		if f.State == "established" && (port == 0 || f.Backend.Port() == port) {
			byService[f.Service]++
			res.Flows++
		}
		return true
	})
	if err != nil {
		res.Flows, res.Note = -1, "flows could not be counted: "+err.Error()
		return res, nil
	}
	for i := range res.Services {
		name, _ := model.ParseServiceName(res.Services[i].Service)
		res.Services[i].Flows = byService[name]
	}
	return res, nil
}

// traffic turns the data plane's counters into those of the metrics.
func (a *Agent) traffic() (metrics.Traffic, error) {
	st, err := a.parts.stats()
	if err != nil {
		return metrics.Traffic{}, err
	}
	t := metrics.Traffic{Flows: st.Flows, FlowLimit: st.FlowLimit, Evictions: st.Evictions, SourcePorts: st.SourcePorts, SourcePortsUsed: st.SourcePortsUsed}
	interfaces, _ := a.parts.attached()
	for _, p := range packetsOf(st.Packets, interfaces) {
		t.Packets = append(t.Packets, metrics.Packets(p))
	}
	for _, c := range st.Services {
		t.Services = append(t.Services, metrics.Service{
			Name: c.Service.String(), Port: c.Port.Service, Connections: c.Connections, Active: c.Active,
			BytesIn: c.BytesIn, BytesOut: c.BytesOut,
		})
	}
	return t, nil
}

// requestsOf turns the counters of the HTTP front into those of the metrics.
func requestsOf(counts []ingress.Count) []metrics.Requests {
	out := make([]metrics.Requests, len(counts))
	for i, c := range counts {
		out[i] = metrics.Requests{Service: c.Service, Codes: c.Codes, Bounds: ingress.Buckets, Durations: c.Durations, Seconds: c.Seconds}
	}
	return out
}

// packetsOf names the interfaces of the packet counters.
func packetsOf(counts []dataplane.PacketCount, interfaces []admin.Interface) []admin.Packets {
	slots := map[uint32]admin.Interface{}
	for _, i := range interfaces {
		if _, shared := slots[i.Slot]; shared {
			i = admin.Interface{Name: otherInterfaces}
		}
		slots[i.Slot] = i
	}
	var out []admin.Packets
	for _, p := range counts {
		m := admin.Packets{Interface: otherInterfaces, Direction: "in", Verdict: p.Verdict, Reason: p.Reason, Count: p.Packets}
		if i, ok := slots[p.Slot]; ok && p.Slot != 0 {
			m.Interface = i.Name
			if i.Role == "workload" {
				m.Direction = "out"
			}
		}
		out = append(out, m)
	}
	return out
}

func (a *Agent) backends() []metrics.Backend {
	state := a.engine.state()
	var out []metrics.Backend
	for i := range state.Services {
		svc := state.Services[i]
		for _, b := range svc.Backends {
			out = append(out, metrics.Backend{
				Service: svc.Name.String(), Address: b.Addrs()[0].String(),
				// At the last resort a failing replica is not down.
				Healthy: b.Condition != model.Down && a.parts.health.Backend(svc.Name, b).Healthy,
			})
		}
	}
	return out
}
