// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"net"
	"net/netip"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/autocert"
	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/dnsserver"
	"github.com/fairlead-lb/fairlead/pkg/domain"
	"github.com/fairlead-lb/fairlead/pkg/health"
	"github.com/fairlead-lb/fairlead/pkg/ingress"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
	"github.com/fairlead-lb/fairlead/pkg/standby"
	"github.com/fairlead-lb/fairlead/pkg/tcproute"
)

// otherInterfaces is the label of packets whose interface has no counters of
// its own.
const otherInterfaces = "other"

// tcpFront is what the agent asks of package tcproute's Router.
type tcpFront interface {
	Names() []tcproute.Name
	Counts() []tcproute.Count
	Sessions(model.ServiceName) []tcproute.Session
	Problems() []string
	Shutdown(context.Context) error
}

// parts is what an agent is made of. Every field is set.
type parts struct {
	sources  []source.Source      // earlier ones win conflicts
	targets  [][]reconcile.Target // in stages: a state reaches the next one when all of this one have tried it
	workers  []worker
	complete func(*model.State) error

	problems []string // found while building

	forward      []reconcile.Target // those of targets that carry connections
	withdrawal   *withdrawal
	drains       *admin.Drains
	fatal        <-chan error // a required source has nothing to give
	reload       func()
	configError  func() error
	configErrors func() uint64
	health       *health.Checker
	hop          func(netip.Addr) (hop nexthop.Hop, known bool) // where the data plane sends to
	attached     func() ([]admin.Interface, []admin.Cgroup)
	stats        func() (dataplane.Stats, error)
	counts       func(of func(model.ServiceName) bool) ([]dataplane.ServiceCount, error)
	flows        func(context.Context, dataplane.FlowFilter, func(dataplane.Flow) bool) error
	trace        func(context.Context, bpf.TraceFilter, func([]bpf.TraceEvent, uint64) bool) error
	nodeAddrs    func(interfaces []string) ([]netip.Addr, error)
	replicas     func() []activator.Replica
	naps         *activator.Activator
	held         func() []standby.Connection // connections to services that sleep, or slept then
	heldCounts   func() standby.Counts
	locals       func() map[model.ServiceName]uint64 // datagrams of programs on this host that the data plane does not see
	using        func(model.ServiceName) []ingress.Use
	pooled       func(netip.Addr) int             // connections that the HTTP front keeps for later
	inFlight     func() map[model.ServiceName]int // requests at the HTTP front
	instead      func(netip.AddrPort) string      // what a replica listens on where nothing answers; empty: all is well, or nobody knows
	tcp          tcpFront

	labelProblems func() []string // of containers whose labels have faults
	requests      func() []metrics.Requests
	frontAddrs    func() (plain, secure net.Addr)
	drainFronts   func(context.Context) error // ends the connections of clients
	shutdown      func(context.Context) error // stops the workloads
	certificates  func() []autocert.Certificate
	loaded        func(context.Context) error // stored certificates are served
	domains       *domain.Store
	tokenProblems func() []string
	questions     func() []dnsserver.Count // to the name server
	close         func()
}
