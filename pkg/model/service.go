// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Protocol is an IP protocol number the data plane balances.
type Protocol uint8

// The protocols of a service port (IANA protocol numbers).
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String is "tcp" or "udp".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol-%d", uint8(p))
}

// MarshalText writes "tcp" or "udp".
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Port is one pair of a service: clients connect to Service on the virtual IP,
// replicas receive on Container. "tcp+udp" in the config is two Ports.
type Port struct {
	Service   uint16   `json:"service"`
	Container uint16   `json:"container"`
	Protocol  Protocol `json:"protocol"`
}

// Mode is how packets reach a replica and come back.
type Mode string

// The modes of CONTRACT.md.
const (
	ModeNAT     Mode = "nat"
	ModeFullNAT Mode = "full-nat"
	ModeDSR     Mode = "dsr"
)

// Condition is what is known about a backend's fitness for new connections.
type Condition uint8

// Conditions, best first. Established connections of a draining backend live
// on until the service's drain time ends; a down backend keeps TCP flows (they
// may recover) and loses UDP flows at their next packet.
const (
	Ready Condition = iota
	Draining
	Down
)

// String is "ready", "draining" or "down".
func (c Condition) String() string {
	switch c {
	case Ready:
		return "ready"
	case Draining:
		return "draining"
	case Down:
		return "down"
	}
	return fmt.Sprintf("condition-%d", uint8(c))
}

// MarshalText writes the condition's name.
func (c Condition) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Backend is one replica of a service. It has at most one address per family
// and at least one address.
type Backend struct {
	Addr4     netip.Addr `json:"addr4,omitzero"` // IPv4, never 4-in-6
	Addr6     netip.Addr `json:"addr6,omitzero"`
	Weight    uint16     `json:"weight"` // 1 … 65535, relative share of new connections
	Backup    bool       `json:"backup,omitempty"`
	Condition Condition  `json:"condition"`
	// Share is how much of its weight new connections follow while it starts
	// slowly, in per cent, 1 … 99; 0: all of it.
	Share   uint8  `json:"share,omitempty"`
	Replica string `json:"replica,omitempty"` // the workload replica's id, empty for a fixed address
	// Container is the port that a replica of a service with an Assumed one was
	// found to listen on; 0: the service's.
	Container uint16 `json:"container,omitempty"`
}

// Addrs lists the addresses the backend has, IPv4 first.
func (b Backend) Addrs() []netip.Addr {
	var addrs []netip.Addr
	for _, a := range []netip.Addr{b.Addr4, b.Addr6} {
		if a.IsValid() {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Addr is the backend's address in the family of vip; invalid if it has none.
func (b Backend) Addr(vip netip.Addr) netip.Addr {
	if vip.Is4() {
		return b.Addr4
	}
	return b.Addr6
}

// Compare orders backends by address.
func (b Backend) Compare(o Backend) int {
	if c := b.Addr4.Compare(o.Addr4); c != 0 {
		return c
	}
	return b.Addr6.Compare(o.Addr6)
}

// Balance is how a replica is chosen for a new connection.
type Balance struct {
	Affinity        string        `json:"affinity,omitempty"` // "none" | "client-ip"
	AffinityTimeout time.Duration `json:"affinityTimeout,omitempty"`
	Policy          string        `json:"policy,omitempty"` // "maglev" | "least-connections"
}

// HealthCheck is the active check of every replica. The zero value is "none".
type HealthCheck struct {
	Type     string        `json:"type"` // "tcp" | "http" | "none"
	Path     string        `json:"path,omitempty"`
	Status   []int         `json:"status,omitempty"` // accepted codes; empty: 200–399
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"`
	Rise     int           `json:"rise"`
	Fall     int           `json:"fall"`
	// SlowStart is how long a replica that passes again takes to get its whole
	// share of new connections; 0: none.
	SlowStart time.Duration `json:"slowStart,omitzero"`
}

// RateLimit bounds new connections per client address; PerSecond 0 is off.
type RateLimit struct {
	PerSecond uint32 `json:"connectionsPerSecond"`
	Burst     uint32 `json:"burst"`
}

// Sleep is what becomes of TCP connections to a service that may have no
// replica because nobody used it.
type Sleep string

// The kinds of sleep. Awake or asleep, connections that this host accepted
// stay its own.
const (
	NeverSleeps Sleep = ""       // without replicas it refuses connections
	Awake       Sleep = "awake"  // new connections go to the replicas
	Asleep      Sleep = "asleep" // this host accepts new connections, holds them and wakes it
)

// Service is one balanced service with its virtual IPs.
type Service struct {
	Name      ServiceName    `json:"name"`
	Title     string         `json:"title,omitempty"`    // PROJECT/USER as the owner wrote it, before transliteration
	Internal  string         `json:"internal,omitempty"` // internal DNS name
	VIP4      netip.Addr     `json:"vip,omitzero"`
	VIP6      netip.Addr     `json:"vip6,omitzero"`
	Ports     []Port         `json:"ports"`    // sorted by Protocol, Service; unique
	Backends  []Backend      `json:"backends"` // sorted by address; unique
	Mode      Mode           `json:"mode"`
	Balance   Balance        `json:"balance"`
	Health    HealthCheck    `json:"health"`
	Drain     time.Duration  `json:"drain"`
	Allow     []netip.Prefix `json:"allow,omitempty"` // empty: everyone
	RateLimit RateLimit      `json:"rateLimit"`

	NodePorts []NodePort `json:"nodePorts,omitempty"`
	HTTP      []HTTPHost `json:"http,omitempty"`
	TCPNames  []TCPName  `json:"tcpNames,omitempty"`
	Workload  *Workload  `json:"workload,omitempty"` // nil: fixed replicas or the placeholder
	Sleep     Sleep      `json:"sleep,omitempty"`
	// Nap is how many times it has begun to fall asleep: by it the one who asked
	// for that knows which time a state means that was applied late.
	Nap uint64 `json:"nap,omitempty"`
	// Assumed is the only container port, if nobody wrote it: until a replica of
	// the workload is found to listen on another one, Ports has it, too. 0: it
	// is written.
	Assumed uint16 `json:"assumed,omitempty"`
}

// Serving lists the backends new connections may go to in the family of vip:
// ready primaries, or, when there is none, ready backups.
func (s *Service) Serving(vip netip.Addr) []Backend {
	var out []Backend
	serves := s.Serves(vip)
	for i := range s.Backends {
		if serves(&s.Backends[i]) {
			out = append(out, s.Backends[i])
		}
	}
	return out
}

// Serves tells of each of the service's backends whether Serving lists it.
func (s *Service) Serves(vip netip.Addr) func(*Backend) bool {
	ready := func(b *Backend) bool { return b.Condition == Ready && b.Addr(vip).IsValid() }
	backups := true
	for i := range s.Backends {
		if b := &s.Backends[i]; !b.Backup && ready(b) {
			backups = false
			break
		}
	}
	return func(b *Backend) bool { return b.Backup == backups && ready(b) }
}

// FindPort finds the pair of a protocol and service port.
func (s *Service) FindPort(proto Protocol, service uint16) (Port, bool) {
	i := slices.IndexFunc(s.Ports, func(p Port) bool { return p.Protocol == proto && p.Service == service })
	if i < 0 {
		return Port{}, false
	}
	return s.Ports[i], true
}

// NodePort exposes a service port on the node's public addresses.
type NodePort struct {
	Port        uint16 `json:"port"`
	ServicePort uint16 `json:"servicePort"`
}
