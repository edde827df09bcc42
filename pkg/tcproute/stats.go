// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// results counts what became of connections.
type results [3][17]atomic.Uint64

// A compile error here: results has no room for one of Results.
var _ = [17]Result{
	Routed, Canceled, CancelUnknown, NoTLS, NoName, UnknownName, Malformed, TimedOut, Gone, NotAllowed, RateLimited,
	NoReplica, NotWoken, BackendFailed, NoCertificate, Handshake, Limited,
}

func (r *results) add(k Kind, res Result) {
	r[slices.Index(Kinds, k)][slices.Index(Results, res)].Add(1)
}

// Count is one cell of fairlead_tcp_router_connections_total.
type Count struct {
	Kind   string // label
	Result Result
	N      uint64
}

// Counts lists the results of every kind that has seen a connection or listens.
func (r *Router) Counts() []Count {
	var out []Count
	for i, k := range Kinds {
		seen := r.Addr(k) != nil
		for j := range Results {
			seen = seen || r.results[i][j].Load() > 0
		}
		if !seen {
			continue
		}
		for j, res := range Results {
			out = append(out, Count{k.Label(), res, r.results[i][j].Load()})
		}
	}
	return out
}

// Name is one server name as a person sees it.
type Name struct {
	Service     model.ServiceName
	Kind        Kind
	Host        string
	TLS         string // "passthrough" | "terminate"
	Connections uint64 // routed since the name came
	Active      uint64
	BytesIn     uint64 // from clients; of connections that have ended
	BytesOut    uint64
	Problem     string // why its connections fail, and what to do
}

// Names lists the names that are routed, by kind and host.
func (r *Router) Names() []Name {
	t := r.table.Load()
	var out []Name
	for _, k := range Kinds {
		for _, to := range t.routes[k] {
			n := Name{
				Service: to.service, Kind: k, Host: to.host, TLS: "passthrough",
				Connections: uint64(to.stats.connections.Load()), Active: uint64(max(to.stats.active.Load(), 0)),
				BytesIn: uint64(to.stats.in.Load()), BytesOut: uint64(to.stats.out.Load()),
			}
			if to.terminate {
				n.TLS = "terminate"
				if !r.holds(to.host) {
					n.Problem = "no certificate yet: its connections are refused until there is one"
				}
			}
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Name) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Host, b.Host))
	})
	return out
}

// Session is one routed connection.
type Session struct {
	Kind   Kind
	Host   string
	Client netip.AddrPort
	Since  time.Time
}

// Sessions lists the connections of a service, in no order.
func (r *Router) Sessions(name model.ServiceName) (out []Session) {
	r.flows.mu.Lock()
	defer r.flows.mu.Unlock()
	for k, rep := range r.flows.replicas {
		if k.service != name {
			continue
		}
		for s := range rep.sessions {
			out = append(out, Session{s.to.kind, s.to.host, s.client, s.since})
		}
	}
	return out
}

// quietLog writes one line a second of each kind and result, and how many it
// left out: clients that fail in a loop fill no disk.
type quietLog struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]*lastLine
}

type lastLine struct {
	at      time.Time
	skipped int
}

func (q *quietLog) info(now time.Time, what, key string, args ...any) {
	q.mu.Lock()
	if q.last == nil {
		q.last = map[string]*lastLine{}
	}
	l := q.last[key]
	if l == nil {
		l = &lastLine{}
		q.last[key] = l
	}
	if now.Sub(l.at) < time.Second {
		l.skipped++
		q.mu.Unlock()
		return
	}
	skipped := l.skipped
	*l = lastLine{at: now}
	q.mu.Unlock()
	if skipped > 0 {
		args = append(args, "more like it", skipped)
	}
	q.log.Info(what, args...)
}
