// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// table is what a state says about names. It is immutable.
type table struct {
	routes   map[Kind]map[string]*route // by normal name
	trusted  []netip.Prefix
	problems []string
}

// route is where one name leads.
type route struct {
	kind     Kind
	host     string // normal
	service  model.ServiceName
	port     uint16 // of the replicas
	primary  []candidate
	backup   []candidate
	drain    time.Duration
	allow    []netip.Prefix
	rate     model.RateLimit
	affinity bool
	least    bool // fewest connections first
	wakes    bool // the service sleeps, and a connection wakes it

	terminate bool
	proxy     bool        // PROXY protocol to the replicas
	tls       *tls.Config // to the replicas; nil: plain, or the client's own
	stats     *nameStats
}

// candidate is a replica that may get a connection.
type candidate struct {
	addrs  []netip.Addr // one of each family
	weight float64
}

// compile makes the table of a state. Counters of names that stay are kept.
func compile(s *model.State, old *table) *table {
	t := &table{routes: map[Kind]map[string]*route{}, trusted: s.Settings.TrustedProxies}
	for i := range s.Services {
		svc := s.Services[i]
		for _, n := range svc.TCPNames {
			k := Kind(n.Kind)
			port, ok := svc.FindPort(model.TCP, n.ServicePort())
			if !ok || !slices.Contains(Kinds, k) {
				t.problems = append(t.problems, fmt.Sprintf("service %s: name %s of kind %s needs the TCP service port %d, which the service lacks",
					svc.Name, n.Host, n.Kind, n.ServicePort()))
				continue
			}
			r := newRoute(svc, n, port.Container)
			if err := r.towards(n.BackendTLS); err != nil {
				t.problems = append(t.problems, fmt.Sprintf("service %s: name %s: %v: it is not served", svc.Name, n.Host, err))
				continue
			}
			t.add(r, old)
		}
	}
	for _, k := range Kinds {
		if n := len(t.routes[k]); n > 0 && k.address(s.Settings.Listen) == "" {
			t.problems = append(t.problems, fmt.Sprintf(`listen.%s is "": no name of kind %s is served, the config has %d`, k.Label(), k, n))
		}
	}
	return t
}

func (t *table) add(r *route, old *table) {
	names := t.routes[r.kind]
	if names == nil {
		names = map[string]*route{}
		t.routes[r.kind] = names
	}
	if first, taken := names[r.host]; taken { // sources check their own names only
		t.problems = append(t.problems, fmt.Sprintf("name %s of kind %s belongs to service %s and is asked for by %s, too", r.host, r.kind, first.service, r.service))
		return
	}
	r.stats = &nameStats{}
	if old != nil {
		if was := old.routes[r.kind][r.host]; was != nil && was.service == r.service {
			r.stats = was.stats
		}
	}
	names[r.host] = r
}

func newRoute(svc *model.Service, n model.TCPName, port uint16) *route {
	r := &route{
		kind: Kind(n.Kind), host: normal(n.Host), service: svc.Name, port: port, drain: svc.Drain, allow: svc.Allow, rate: svc.RateLimit,
		affinity: svc.Balance.Affinity == "client-ip", least: svc.Balance.Policy == "least-connections",
		terminate: n.TLS == "terminate", proxy: n.ProxyProtocol, wakes: svc.Sleep == model.Asleep,
	}
	r.replicas(svc.Backends)
	return r
}

// replicas sorts those out that take connections.
func (r *route) replicas(backends []model.Backend) {
	for _, b := range backends {
		if b.Condition != model.Ready || len(b.Addrs()) == 0 {
			continue
		}
		c := candidate{addrs: b.Addrs(), weight: float64(max(b.Weight, 1))}
		if b.Backup {
			r.backup = append(r.backup, c)
		} else {
			r.primary = append(r.primary, c)
		}
	}
}

// towards makes the settings of TLS to the replicas.
func (r *route) towards(b model.BackendTLS) error {
	if !r.terminate || b.Mode == "" || b.Mode == "off" {
		return nil
	}
	r.tls = &tls.Config{ServerName: r.host, InsecureSkipVerify: b.Mode != "verify"}
	if b.ServerName != "" {
		r.tls.ServerName = b.ServerName
	}
	if r.kind == Postgres {
		r.tls.NextProtos = []string{alpnPostgres}
	}
	if b.CAFile == "" {
		return nil
	}
	pem, err := os.ReadFile(b.CAFile)
	if err != nil {
		return fmt.Errorf("read backendTLS.caFile: %w", err)
	}
	r.tls.RootCAs = x509.NewCertPool()
	if !r.tls.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("backendTLS.caFile %s has no PEM certificate", b.CAFile)
	}
	return nil
}

// permits applies the service's allow list.
func (r *route) permits(client netip.Addr) bool {
	return len(r.allow) == 0 || contains(r.allow, client)
}

func contains(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

// find looks a name up. The refusal says why there is no route.
func (t *table) find(k Kind, sent string) (*route, *refusal) {
	name := normal(sent)
	if name == "" {
		return nil, noName("")
	}
	if r := t.routes[k][name]; r != nil {
		return r, nil
	}
	// libpq without host= sends the directory of its Unix socket, and some
	// clients an address, which RFC 6066 forbids.
	if _, err := netip.ParseAddr(name); err == nil || strings.ContainsAny(name, "/\\ @") {
		return nil, noName(sent)
	}
	return nil, unknownName(name, k)
}

// live is the replicas that connections may be at, whatever their condition.
func live(s *model.State) map[replicaKey]bool {
	out := map[replicaKey]bool{}
	for i := range s.Services {
		svc := s.Services[i]
		for _, n := range svc.TCPNames {
			port, ok := svc.FindPort(model.TCP, n.ServicePort())
			if !ok {
				continue
			}
			for _, b := range svc.Backends {
				for _, a := range b.Addrs() {
					out[replicaKey{svc.Name, netip.AddrPortFrom(a, port.Container)}] = true
				}
			}
		}
	}
	return out
}
