// SPDX-License-Identifier: Apache-2.0

// Package metrics serves Prometheus metrics, liveness and readiness over HTTP.
// Nothing is counted here: a scrape reads what the data plane and the agent
// have counted. The listener is a reconcile.Target, so that its address follows
// the config and an address in use is reported and tried again.
package metrics

import "time"

// Reader is what a scrape reads. Every field must be set; they are called from
// many goroutines at once and must not block for long.
type Reader struct {
	Agent    func() Agent
	Traffic  func() (Traffic, error)
	Backends func() []Backend
	Router   func() Router
	Requests func() []Requests
	// Behind names each target that has not applied the newest desired state,
	// and why; empty: the agent is ready.
	Behind func() []string
	// Certificates are those that are served.
	Certificates func() []Certificate
	// Questions are those to the name server, by what became of them.
	Questions func() map[string]uint64
	Wakes     func() Wakes
	Held      func() Held
}

// Held is the connections that this host accepted for services that slept.
type Held struct {
	Waiting, Joined uint64            // that are open now
	Pending         uint64            // bytes that those that wait have sent
	In, Out         uint64            // bytes of those that have ended, from clients and to them
	Results         map[string]uint64 // "joined" | "failed" | "refused"
	// Datagrams that wait; and, since the start, by what became of them: "passed" |
	// "dropped".
	Datagrams       uint64
	DatagramResults map[string]uint64
	// By counts, by service, what waits: requests and connections by name as well.
	By map[string]uint64
}

// Wakes is what is known of services that sleep.
type Wakes struct {
	Asleep map[string]bool // by service that may sleep: it does now
	Counts []WakeCount
	Times  []WakeTime

	Replicas map[string]int // wanted, by service that may have more or fewer
}

// WakeTime is how long one phase of the starts of a service took.
type WakeTime struct {
	Service string
	Phase   string // "start" | "listen" | "first_byte"
	Count   uint64
	Seconds float64 // together
}

// WakeCount is one cell of wake_total.
type WakeCount struct {
	Service string
	Cause   string // "connection" | "datagram" | "request" | "operator"
	Result  string // "ready" | "failed" | "timeout" | "queue_full" | "refused"
	Count   uint64
}

// Certificate is one host's.
type Certificate struct {
	Host    string
	Expires time.Time
}

// Agent is what the agent knows of itself.
type Agent struct {
	Generation   uint64 // of the newest desired state
	ConfigErrors uint64 // invalid configs seen
}

// Traffic is a reading of the data plane's counters.
type Traffic struct {
	Packets   []Packets
	Services  []Service
	Flows     uint64
	FlowLimit uint64
	Evictions uint64

	SourcePorts     uint64
	SourcePortsUsed uint64
}

// Packets is one cell of packets_total; cells with equal labels are summed.
type Packets struct {
	Interface string
	Direction string // "in" from clients | "out" from replicas
	Verdict   string // "forward" | "pass" | "drop" | "answer"
	Reason    string
	Count     uint64
}

// Service is the counters of one service port; equal names and ports (TCP and
// UDP) are summed.
type Service struct {
	Name        string // PROJECT/USER
	Port        uint16
	Connections uint64
	Active      uint64
	BytesIn     uint64 // from clients
	BytesOut    uint64
}

// Router is what became of connections by TLS server name.
type Router struct {
	Results []RouterResult
	Active  map[string]uint64 // by kind
}

// RouterResult is one cell of tcp_router_connections_total.
type RouterResult struct {
	Kind   string // "postgres" | "mongo" | "redis"
	Result string
	Count  uint64
}

// Backend is one replica.
type Backend struct {
	Service string
	Address string
	Healthy bool
}

// Requests is what the HTTP front has answered for a service.
type Requests struct {
	Service   string         // PROJECT/USER, or "none"
	Codes     map[int]uint64 // by status
	Bounds    []float64      // of the durations, in seconds
	Durations []uint64       // requests up to each bound and beyond the one before; the last: beyond all
	Seconds   float64        // of all requests together
}
