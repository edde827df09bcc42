// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Service is one service with what the data plane counted for it.
type Service struct {
	Name       string     `json:"name"`
	Title      string     `json:"title,omitempty"` // as the owner wrote it
	Internal   string     `json:"internal,omitempty"`
	VIP        netip.Addr `json:"vip,omitzero"`
	VIP6       netip.Addr `json:"vip6,omitzero"`
	Mode       string     `json:"mode"`
	Drain      string     `json:"drain"`
	Workload   string     `json:"workload,omitempty"` // its driver
	Wanted     int        `json:"wanted"`             // replicas that should be there
	Ports      []Port     `json:"ports"`
	Replicas   []Replica  `json:"replicas"`
	Names      []Name     `json:"names,omitempty"`      // TLS server names that lead to it
	Hosts      []Host     `json:"hosts,omitempty"`      // of the HTTP front
	LastResort string     `json:"lastResort,omitempty"` // why failing checks take no replica out
	Sleep      *Nap       `json:"sleep,omitempty"`      // of one that may sleep, or is stopped
	// Uses is what keeps it awake, or waits for it; of one service that may
	// sleep, not in lists.
	Uses         []Use    `json:"uses,omitempty"`
	MoreUses     int      `json:"moreUses,omitempty"` // that are not in Uses
	Scale        *Scale   `json:"scale,omitempty"`    // of one that may have more replicas or fewer
	NotServedYet []string `json:"notServedYet"`
}

// Host is a host name of the HTTP front and what of it leads to the service.
type Host struct {
	Host     string `json:"host"`
	TLS      bool   `json:"tls"` // it is to have a certificate
	Redirect bool   `json:"redirect,omitempty"`
	Paths    []Path `json:"paths"`
}

// Path is a path prefix of a host.
type Path struct {
	Path        string `json:"path"`
	ServicePort uint16 `json:"servicePort"`
	WebSocket   bool   `json:"websocket,omitempty"`
}

// Port is a service port and its counters since the maps were made.
type Port struct {
	Service     uint16 `json:"service"`
	Container   uint16 `json:"container"`
	Protocol    string `json:"protocol"`
	Connections uint64 `json:"connections"`
	Active      uint64 `json:"active"` // established flows at the last sweep
	PacketsIn   uint64 `json:"packetsIn"`
	PacketsOut  uint64 `json:"packetsOut"`
	BytesIn     uint64 `json:"bytesIn"` // from clients
	BytesOut    uint64 `json:"bytesOut"`
}

// Replica is one backend of a service.
type Replica struct {
	Addr4     netip.Addr `json:"addr4,omitzero"`
	Addr6     netip.Addr `json:"addr6,omitzero"`
	Weight    uint16     `json:"weight"`
	Backup    bool       `json:"backup,omitempty"`
	Condition string     `json:"condition"` // "ready" | "draining" | "down"
	ID        string     `json:"id,omitempty"`
	Check     string     `json:"check,omitempty"`  // "passing" | "failing"; empty: it is not checked
	Reason    string     `json:"reason,omitempty"` // what there is to say of the check
	// Problem says what is wrong with where the replica is, and what to do.
	Problem     string `json:"problem,omitempty"`
	Unreachable bool   `json:"unreachable,omitempty"` // it gets connections and they are lost
}

// Name is a TLS server name by which a service is reached.
type Name struct {
	Host        string `json:"host"`
	Kind        string `json:"kind"` // "POSTGRES" | "MONGO" | "REDIS"
	TLS         string `json:"tls"`  // "passthrough" | "terminate"
	Connections uint64 `json:"connections"`
	Active      uint64 `json:"active"`
	BytesIn     uint64 `json:"bytesIn"` // from clients, of connections that have ended
	BytesOut    uint64 `json:"bytesOut"`
	Problem     string `json:"problem,omitempty"`
}

// Ready tells whether the replica takes new connections.
func (r Replica) Ready() bool { return r.Condition == model.Ready.String() && !r.Unreachable }

// Ready counts the replicas that take new connections.
func (s *Service) Ready() int {
	n := 0
	for _, r := range s.Replicas {
		if r.Ready() {
			n++
		}
	}
	return n
}

// NewService makes the view of a service, with counters at zero.
func NewService(m *model.Service) Service {
	s := Service{
		Name: m.Name.String(), Title: m.Title, Internal: m.Internal, VIP: m.VIP4, VIP6: m.VIP6,
		Mode: string(m.Mode), Drain: m.Drain.String(), Wanted: Wanted(m),
		Ports: make([]Port, len(m.Ports)), Replicas: make([]Replica, len(m.Backends)), NotServedYet: []string{},
	}
	if m.Workload != nil {
		s.Workload = m.Workload.Driver
	}
	for i, p := range m.Ports {
		s.Ports[i] = Port{Service: p.Service, Container: p.Container, Protocol: p.Protocol.String()}
	}
	for _, h := range m.HTTP {
		host := Host{Host: h.Host, TLS: h.TLS, Redirect: h.Redirect}
		for _, p := range h.Paths {
			host.Paths = append(host.Paths, Path{Path: p.Path, ServicePort: p.ServicePort, WebSocket: p.WebSocket})
		}
		s.Hosts = append(s.Hosts, host)
	}
	for i, b := range m.Backends {
		s.Replicas[i] = NewReplica(b)
	}
	return s
}

// NewReplica makes the view of a backend.
func NewReplica(b model.Backend) Replica {
	return Replica{
		Addr4: b.Addr4, Addr6: b.Addr6, Weight: b.Weight, Backup: b.Backup,
		Condition: b.Condition.String(), ID: b.Replica,
	}
}

// Wanted is how many replicas a service should have now.
func Wanted(m *model.Service) int {
	switch {
	case m.Workload == nil:
		return len(m.Backends)
	case m.Workload.Scale.Paused, m.Sleep == model.Asleep:
		return 0
	}
	return max(1, m.Workload.Scale.Min)
}

// Flow is one tracked connection.
type Flow struct {
	Service     string         `json:"service"`
	Protocol    string         `json:"protocol"`
	Client      netip.AddrPort `json:"client"`
	VIP         netip.AddrPort `json:"vip"`
	Backend     netip.AddrPort `json:"backend"`
	Source      netip.AddrPort `json:"source,omitzero"` // what the backend sees, where that is not the client
	State       string         `json:"state"`           // "new" | "established" | "closing"
	IdleSeconds float64        `json:"idleSeconds"`
}

// Workload is one replica that fairlead runs.
type Workload struct {
	ID       string     `json:"id"`
	Service  string     `json:"service"`
	Driver   string     `json:"driver"`
	Phase    string     `json:"phase"` // "starting" | "ready" | "backoff" | "stopping"
	Reason   string     `json:"reason,omitempty"`
	Addr4    netip.Addr `json:"addr4,omitzero"`
	Addr6    netip.Addr `json:"addr6,omitzero"`
	PID      int        `json:"pid,omitempty"`
	Since    time.Time  `json:"since"`
	Next     time.Time  `json:"next,omitzero"` // when it will be started again
	Restarts int        `json:"restarts"`
	Log      string     `json:"log,omitempty"`
}

// Domain is one host name of the HTTP front.
type Domain struct {
	Host        string `json:"host"`
	Service     string `json:"service"`
	Kind        string `json:"kind"`                  // "free" | "config" | "own"
	State       string `json:"state"`                 // "on" | "off" | "unconfirmed" | "conflict" | "no service"; all but "on" of own ones only
	Certificate string `json:"certificate,omitempty"` // its state; empty: TLS is off, or the host is not on
	Note        string `json:"note,omitempty"`        // why, and what to do
}

// Domains is the answer of GET /v1/domains; Note tells why a list is empty.
type Domains struct {
	Domains []Domain `json:"domains"`
	Note    string   `json:"note,omitempty"`
}

// DomainRequest is the body of POST /v1/domain.
type DomainRequest struct {
	Verb    string `json:"verb"` // "add" | "check" | "confirm" | "on" | "off" | "remove"
	Host    string `json:"host"`
	Service string `json:"service,omitempty"` // PROJECT/USER, for add
}

// DomainResult is what a verb on an own domain did or saw.
type DomainResult struct {
	Host      string         `json:"host"`
	Service   string         `json:"service"`
	Confirmed bool           `json:"confirmed"`
	Off       bool           `json:"off"`
	Changed   bool           `json:"changed"`            // false: it was so before
	OK        bool           `json:"ok"`                 // check, confirm: all records that matter are as wanted
	Records   []DomainRecord `json:"records"`            // to set (add), or as they were seen (check, confirm)
	Resolver  string         `json:"resolver,omitempty"` // that was asked
}

// DomainRecord is one DNS record a domain needs.
type DomainRecord struct {
	Type     string   `json:"type"`
	Name     string   `json:"name"`
	Want     []string `json:"want"` // one of these; empty: there must be none
	Optional bool     `json:"optional,omitempty"`
	Found    []string `json:"found"`
	OK       bool     `json:"ok"`
	Note     string   `json:"note,omitempty"`
}

// Certificate is one name, or wildcard, that a certificate is kept for.
type Certificate struct {
	Host      string    `json:"host"`
	Covers    []string  `json:"covers,omitempty"` // of a wildcard: the names it serves
	State     string    `json:"state"`            // "waiting" | "valid" | "expired" | "failed" | "refused"
	Issuer    string    `json:"issuer,omitempty"` // of the certificate that is served; empty: none is
	NotBefore time.Time `json:"notBefore,omitzero"`
	Expires   time.Time `json:"expires,omitzero"`
	Awaiting  string    `json:"awaiting,omitempty"` // what it waits for at this moment
	Error     string    `json:"error,omitempty"`    // of the last try
	NextTry   time.Time `json:"nextTry,omitzero"`   // of the next order; the renewal, if it is valid
}

// Certificates is the answer of GET /v1/certificates.
type Certificates struct {
	Certificates []Certificate `json:"certificates"`
	Note         string        `json:"note,omitempty"`
}
