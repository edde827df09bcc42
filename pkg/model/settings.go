// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"time"
)

// Settings is everything of the config that is not a service.
type Settings struct {
	Node           Node
	Network        Network
	Listen         Listen
	DNS            DNS
	ACME           ACME
	Domains        Domains
	Tokens         Tokens
	TrustedProxies []netip.Prefix
	AccessLog      AccessLog
	Docker         Docker
}

// Node is where the data plane attaches.
type Node struct {
	// Interfaces where clients' packets arrive. nil: those of the default
	// routes; empty but not nil: none, local clients only.
	Interfaces []string
	// Addresses are the node's public ones; nil: the interfaces' global ones.
	Addresses []netip.Addr
	// Sources are the addresses that backends see in mode full-nat, fairlead's
	// alone; nil: the node's first of each family, shared with local programs.
	Sources []netip.Addr
	// Cgroup is the cgroup2 subtree whose processes get connect-time
	// balancing. nil: the cgroup2 root, found; pointing to "": off.
	Cgroup *string
	Attach string // "auto" | "xdp-native" | "xdp-generic" | "tc"
	TC     string // "auto" | "tcx" | "clsact": how TC programs are attached
}

// Network is where addresses are taken from.
type Network struct {
	Services   netip.Prefix
	Services6  netip.Prefix
	Workloads  netip.Prefix // addresses of process replicas
	Workloads6 netip.Prefix
}

// Listen is the listen addresses, "" for off.
type Listen struct {
	HTTP, HTTPS, Postgres, Mongo, Redis, DNS, Metrics, Dashboard string
}

// DNS is the internal name server's own resolver. Empty: /etc/resolv.conf.
type DNS struct{ Upstream []netip.AddrPort }

// ACME is the certificate authority.
type ACME struct{ Directory, Email, CAFile string }

// Domains is how ownership of a domain is checked.
type Domains struct {
	Resolver netip.AddrPort
	TXTName  string
}

// Tokens is what workloads are told of themselves, and who vouches for it.
type Tokens struct {
	Prefix  string // of the variables
	Context string
	// Host is the platform's own: there the keys are published that tokens are
	// verified with.
	Host string
	// Own: the host is for that alone, so it has a certificate and the front
	// listens for it, whatever services there are.
	Own      bool
	Lifetime time.Duration
}

// Issuer is what tokens say of who issued them.
func (t Tokens) Issuer() string { return "https://" + t.Host }

// Docker is the daemon that runs workloads of driver docker.
type Docker struct {
	Host string // unix:///PATH or tcp://HOST:PORT
	// Labels: its containers' labels define services, too.
	Labels bool
}

// AccessLog is which requests of the HTTP front are logged: one in OneIn, and
// all that end in 5xx; 0: none.
type AccessLog struct{ OneIn uint32 }
