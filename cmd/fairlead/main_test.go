// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"fairlead": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent": startAgent,
		},
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// startAgent is "agent DIR [empty]": a server with made-up views, until the
// script ends.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: agent DIR [empty]")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	views := fullViews()
	if len(args) > 1 {
		views = emptyViews()
	}
	end, err := listen(dir, views)
	ts.Check(err)
	ts.Defer(func() {
		if err := end(); err != nil {
			ts.Logf("agent: %v", err)
		}
	})
}

// listen runs a server with these views until end is called.
func listen(dir string, views admin.Views) (end func() error, err error) {
	srv, err := admin.Listen(admin.ServerConfig{RunDir: dir, Views: views})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	return func() error { cancel(); return <-done }, nil
}

func emptyViews() admin.Views {
	return admin.Views{
		Status: func() admin.Status {
			s := admin.Status{
				Version: "v1.2.3", PID: 7, Config: admin.Config{Path: "/etc/fairlead/fairlead.yaml"},
				Sources: []source.Status{{Name: "file"}},
			}
			s.Judge()
			return s
		},
		Services:     func() []admin.Service { return nil },
		Workloads:    func() []admin.Workload { return nil },
		Domains:      func() admin.Domains { return admin.Domains{Note: "not in this version"} },
		Certificates: func() admin.Certificates { return admin.Certificates{Note: "not in this version"} },
		Uses: func(context.Context, model.ServiceName) ([]admin.Use, int) {
			return []admin.Use{{Kind: "held", Client: "192.0.2.7:4000", Seconds: 61, Detail: "to port 25, opened while it slept"}}, 2
		},
		Flows: func(context.Context, admin.FlowQuery, func(admin.Flow) bool) error { return nil },
		Trace: func(ctx context.Context, _ admin.TraceQuery, yield func([]admin.TraceEvent, uint64) bool) error {
			yield(nil, 0)
			<-ctx.Done()
			return nil
		},
		Domain: func(context.Context, admin.DomainRequest) (admin.DomainResult, error) {
			return admin.DomainResult{}, &admin.Refusal{Code: 404, Err: errors.New("unknown: it was not added")}
		},
		Drain: func(context.Context, admin.DrainRequest) (admin.DrainResult, error) {
			return admin.DrainResult{}, admin.ErrUnknownAddress
		},
	}
}

func fullViews() admin.Views {
	v := emptyViews()
	v.Status = fullStatus
	v.Services = fullServices
	v.Workloads = func() []admin.Workload {
		return []admin.Workload{
			{
				ID: "shop-web-0", Service: "shop/web", Driver: "process", Phase: "ready", Addr4: netip.MustParseAddr("10.66.0.2"),
				PID: 4711, Since: time.Now().Add(-26 * time.Hour), Log: "/var/lib/fairlead/logs/shop-web-0.log",
			},
			{
				ID: "shop-web-1", Service: "shop/web", Driver: "process", Phase: "backoff", Reason: "exit status 1: no such module",
				Since: time.Now().Add(-3 * time.Hour), Restarts: 12,
			},
		}
	}
	v.Domains = func() admin.Domains {
		return admin.Domains{Domains: []admin.Domain{
			{Host: "a.example.com", Service: "shop/web", Kind: "config", State: "on", Certificate: "valid"},
			{Host: "b.example.com", Service: "shop/web", Kind: "own", State: "unconfirmed", Note: "\"fairlead domain check b.example.com\" shows the records to set"},
		}}
	}
	v.Domain = fakeDomain
	v.Certificates = func() admin.Certificates {
		day := 24*time.Hour + time.Minute
		return admin.Certificates{Certificates: []admin.Certificate{
			{
				Host: "shop.example.com", State: "valid", Issuer: "R10", NotBefore: time.Now().Add(-day), Expires: time.Now().Add(89 * day),
				NextTry: time.Now().Add(59 * day),
			},
			{Host: "www.example.com", State: "failed", Error: "the authority says dns: no such name", NextTry: time.Now().Add(time.Hour)},
			{Host: "new.example.com", State: "waiting", Awaiting: "its turn"},
		}}
	}
	v.Flows = func(_ context.Context, q admin.FlowQuery, yield func(admin.Flow) bool) error {
		for _, f := range []admin.Flow{
			{
				Service: "shop/web", Protocol: "tcp", Client: netip.MustParseAddrPort("192.0.2.7:40001"), VIP: netip.MustParseAddrPort("198.18.0.10:90"),
				Backend: netip.MustParseAddrPort("10.66.0.2:8090"), State: "established", IdleSeconds: 65,
			},
			{
				Service: "shop/web", Protocol: "udp", Client: netip.MustParseAddrPort("[2001:db8::7]:40002"), VIP: netip.MustParseAddrPort("[fd00:198:18::a]:53"),
				Backend: netip.MustParseAddrPort("[fd00:66::2]:5353"), State: "new",
			},
		} {
			if q.Client.IsValid() && q.Client != f.Client.Addr() {
				continue
			}
			if !yield(f) {
				break
			}
		}
		return nil
	}
	v.Trace = fullTrace
	v.Drain = func(_ context.Context, r admin.DrainRequest) (admin.DrainResult, error) {
		if r.Address != "10.66.0.2" {
			return admin.DrainResult{}, errors.New("unknown address: no service has a replica at " + r.Address + ": there is 10.66.0.2")
		}
		return admin.DrainResult{
			Address: r.Address, Draining: !r.Undo, Changed: true, Flows: 1,
			Services: []admin.DrainedService{{Service: "shop/web", Left: 0, Flows: 1, Drain: "30s"}},
		}, nil
	}
	return v
}

// fullTrace tells of a few packets, of lost ones, and goes on until the reader
// has had enough. Of one client it fails.
func fullTrace(ctx context.Context, q admin.TraceQuery, yield func([]admin.TraceEvent, uint64) bool) error {
	if q.Client == netip.MustParseAddr("192.0.2.66") {
		return admin.ErrTracing
	}
	at := time.Date(2026, 11, 21, 12, 0, 0, 123456000, time.UTC)
	client, vip, back := netip.MustParseAddrPort("192.0.2.7:40001"), netip.MustParseAddrPort("198.18.0.10:90"), netip.MustParseAddrPort("10.66.0.2:8090")
	client6, vip6 := netip.MustParseAddr("2001:db8:1234:5678::7"), netip.MustParseAddr("fd00:198:18::a")
	events := []admin.TraceEvent{
		{
			Interface: "eth0", Hook: "xdp", Verdict: "pass", Reason: "handed_to_tc", Help: "XDP cannot send it: the TC program does", Service: "shop/web",
			Protocol: "tcp", Src: client, Dst: vip, Flags: "SYN", Length: 74,
		},
		{
			Interface: "eth0", Hook: "tc", Verdict: "forward", Reason: "forwarded", Help: "client to backend", Service: "shop/web",
			Protocol: "tcp", Src: client, Dst: vip, Became: &admin.Tuple{Src: client, Dst: back}, Flags: "SYN", Length: 74,
		},
		{
			Interface: "fl-web", Hook: "tc", Verdict: "forward", Reason: "replied", Help: "backend to client", Service: "shop/web",
			Protocol: "tcp", Src: back, Dst: client, Became: &admin.Tuple{Src: vip, Dst: client}, Flags: "SYN ACK", Length: 74,
		},
		{
			Interface: "eth0", Hook: "xdp", Verdict: "answer", Reason: "echo_answered", Help: "echo request to a VIP", Service: "shop/web",
			Protocol: "icmp6", Src: netip.AddrPortFrom(client6, 0), Dst: netip.AddrPortFrom(vip6, 0), Flags: "echo request", Length: 118,
		},
		{
			Interface: "eth0", Hook: "xdp", Verdict: "drop", Reason: "not_allowed", Help: "the source is not in the service's allow list", Service: "shop/web",
			Protocol: "tcp", Src: client, Dst: vip, Flags: "SYN", Length: 74,
		},
		{Interface: "eth0", Hook: "xdp", Verdict: "pass", Reason: "not_ip", Help: "neither IPv4 nor IPv6", Length: 60},
	}
	if !yield(nil, 0) {
		return nil
	}
	for i := range events {
		events[i].Time = at.Add(time.Duration(i) * time.Millisecond)
		if q.Drops && events[i].Verdict != "drop" {
			continue
		}
		if !yield(events[i:i+1], 0) {
			return nil
		}
	}
	if q.Drops && !yield(nil, 41) {
		return nil
	}
	<-ctx.Done()
	return nil
}

func fullServices() []admin.Service {
	return []admin.Service{
		{
			Name: "shop/web", Title: "Магазин/web", Internal: "fairlead-shop-run-web", VIP: netip.MustParseAddr("198.18.0.10"),
			VIP6: netip.MustParseAddr("fd00:198:18::a"), Mode: "nat", Drain: "30s", Workload: "process", Wanted: 2,
			Ports: []admin.Port{
				{Service: 90, Container: 8090, Protocol: "tcp", Connections: 1234, Active: 5, BytesIn: 1536, BytesOut: 5 << 30},
				{Service: 53, Container: 5353, Protocol: "udp"},
			},
			Replicas:     []admin.Replica{{Addr4: netip.MustParseAddr("10.66.0.2"), Addr6: netip.MustParseAddr("fd00:66::2"), Weight: 1, Condition: "ready", ID: "shop-web-0"}},
			NotServedYet: []string{"expose.http"},
		},
		{
			Name: "shop/db", VIP: netip.MustParseAddr("198.18.0.11"), Mode: "nat", Drain: "30s", NotServedYet: []string{},
			Ports: []admin.Port{{Service: 5432, Container: 5432, Protocol: "tcp"}}, Replicas: []admin.Replica{},
		},
	}
}

func fullStatus() admin.Status {
	s := admin.Status{
		Version: "v1.2.3", PID: 7, UptimeSeconds: 3723,
		Config:  admin.Config{Path: "/etc/fairlead/fairlead.yaml", Generation: 4, Error: "/etc/fairlead/fairlead.yaml:3:1: node: bad\n/etc/fairlead/fairlead.yaml:4:1: x: bad", Errors: 1},
		Counts:  admin.Counts{Services: 2, Replicas: 1, Ready: 1, Flows: 2, FlowLimit: 524288},
		Sources: []source.Status{{Name: "file", Synced: true}, {Name: "operator", Synced: true}},
		Targets: []reconcile.Status{{Target: "dataplane", Generation: 4}, {Target: "attach", Generation: 3, Error: "interface eth9: there is none", Since: time.Now().Add(-50 * time.Hour)}},
		Interfaces: []admin.Interface{
			{Name: "eth0", Index: 2, Role: "nic", XDP: "native", TC: "tcx", Slot: 1},
			{Name: "eth9", Role: "nic", Error: "there is none", Note: "ask the driver"},
		},
		Cgroups:  []admin.Cgroup{{Path: "/sys/fs/cgroup", Hooks: []string{"connect4", "connect6"}}},
		Drains:   []string{"10.66.0.3"},
		Problems: []string{"no virtual IP left in 198.18.0.0/30"},
		NotServedYet: []admin.NotServed{
			{Feature: "expose.http", Services: []string{"a/u", "b/u", "c/u", "d/u", "e/u", "f/u"}},
			{Feature: "listen.dns"},
		},
	}
	s.Judge()
	return s
}

// fakeDomain answers as if b.example.com lacked its TXT record, and
// c.example.com had all.
func fakeDomain(_ context.Context, r admin.DomainRequest) (admin.DomainResult, error) {
	if r.Verb == "add" && r.Service != "shop/web" {
		return admin.DomainResult{}, &admin.Refusal{Code: 404, Err: errors.New("unknown: no service")}
	}
	res := admin.DomainResult{Host: r.Host, Service: "shop/web", Changed: true, OK: r.Host == "c.example.com", Resolver: "8.8.8.8:53"}
	res.Confirmed = res.OK && r.Verb == "confirm"
	res.Records = []admin.DomainRecord{
		{Type: "A", Name: r.Host, Want: []string{"203.0.113.10"}, Found: []string{"203.0.113.10"}, OK: true},
		{Type: "AAAA", Name: r.Host, Want: []string{"2001:db8::10"}, Optional: true, OK: true, Note: "not needed"},
		{Type: "TXT", Name: "_fairlead." + r.Host, Want: []string{"fairlead-abc"}, OK: res.OK, Note: "the resolver knows none"},
	}
	return res, nil
}
