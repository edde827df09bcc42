// SPDX-License-Identifier: Apache-2.0

// Package admin is how a person and a program talk to the running agent: JSON
// over HTTP on a Unix socket that only its owner may open, the client of it,
// and the operator's drains as a source of conditions. It reads views that the
// agent provides and knows no target.
//
// The JSON of the views is stable: fields are added, never renamed.
package admin

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// SocketPath is where the agent of a run directory listens.
func SocketPath(runDir string) string { return filepath.Join(runDir, "fairlead.sock") }

// Views is what the server shows. Every field must be set; they are called
// from many goroutines at once.
type Views struct {
	Status       func() Status
	Services     func() []Service
	Workloads    func() []Workload
	Domains      func() Domains
	Certificates func() Certificates
	// Flows yields the tracked connections until yield returns false.
	Flows func(ctx context.Context, q FlowQuery, yield func(Flow) bool) error
	// Trace yields packets as they leave the programs, until yield returns
	// false or ctx ends, which is no error. It calls yield without events when
	// it begins; lost is how many were lost so far. ErrTracing: one is under way.
	Trace func(ctx context.Context, q TraceQuery, yield func(events []TraceEvent, lost uint64) bool) error
	// Domain does a verb on an own domain. Its error is the operator's; a
	// *Refusal says with which status.
	Domain func(ctx context.Context, r DomainRequest) (DomainResult, error)
	// Sleep does a verb on a workload. Its error is the operator's; a *Refusal
	// says with which status.
	Sleep func(ctx context.Context, r SleepRequest) (SleepResult, error)
	// Upgrade starts an agent that is to take this one's place. Its error is the
	// operator's; a *Refusal says with which status.
	Upgrade func() (Upgrade, error)
	// Uses lists what keeps a service awake, and counts what it does not list.
	Uses func(ctx context.Context, name model.ServiceName) (uses []Use, more int)
	// Drain starts or ends the drain of an address. Its error is the
	// operator's: the address is unknown, or the drain cannot be kept.
	Drain func(ctx context.Context, r DrainRequest) (DrainResult, error)
}

// Refusal is an error with the HTTP status that says its kind.
type Refusal struct {
	Code int
	Err  error
}

// Error is the reason.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap is the reason.
func (r *Refusal) Unwrap() error { return r.Err }

// FlowQuery narrows a listing of flows; zero fields match everything.
type FlowQuery struct {
	Service string
	Client  netip.Addr
	Backend netip.Addr
	Limit   int // 0: no limit
}

// SleepRequest is the body of POST /v1/sleep.
type SleepRequest struct {
	Service string `json:"service"`          // PROJECT/USER
	Verb    string `json:"verb"`             // "wake" | "sleep" | "stop" | "start"
	DryRun  bool   `json:"dryRun,omitempty"` // say what the verb would do, and do nothing
}

// SleepResult tells how a workload is after a verb.
type SleepResult struct {
	Service string `json:"service"`
	Sleep   Nap    `json:"sleep"`
	// Replicas are those that a wake found ready.
	Replicas []Replica `json:"replicas,omitempty"`
	// Would is what the verb would do, in words; of a dry run.
	Would string `json:"would,omitempty"`
	// Uses is what the verb would meet; of a dry run.
	Uses []Use `json:"uses,omitempty"`
	More int   `json:"more,omitempty"` // uses that are not in the list
}

// Use is a connection or request that keeps a service awake, or waits for it.
type Use struct {
	// Kind is "connection" (by packets), "held" (opened while it slept),
	// "waiting" (for a replica), "request", "websocket", "http2", "postgres",
	// "mongo" or "redis" (by name).
	Kind    string  `json:"kind"`
	Client  string  `json:"client"`            // address, with the port where it is known
	Seconds float64 `json:"seconds,omitempty"` // since it began; 0: not known
	Detail  string  `json:"detail,omitempty"`
}

// Nap is whether a workload runs, and why.
type Nap struct {
	Stage   string     `json:"stage"` // "asleep" | "waking" | "awake" | "dozing" | "stopped" | "running": it never sleeps
	Since   *time.Time `json:"since,omitempty"`
	Cause   string     `json:"cause,omitempty"`
	Waiting int        `json:"waiting,omitempty"` // connections and requests that wait for it
	Until   *time.Time `json:"until,omitempty"`   // when it falls asleep if nobody uses it
	Note    string     `json:"note,omitempty"`    // why it does not fall asleep
}

// String says it to a person.
func (n Nap) String() string {
	out := n.Stage
	if n.Since != nil {
		out += " since " + n.Since.Local().Format(time.DateTime)
	}
	if n.Cause != "" {
		out += " because of: " + n.Cause
	}
	if n.Waiting > 0 {
		out += "; " + plural(n.Waiting, "connection") + " waiting for it"
	}
	if n.Until != nil {
		in := max(time.Until(*n.Until), 0).Round(time.Second)
		out += fmt.Sprintf("; falls asleep at %s, in %s, if nobody uses it until then", n.Until.Local().Format(time.DateTime), in)
	}
	if n.Note != "" {
		out += "; " + n.Note
	}
	return out
}

// DrainRequest is the body of POST /v1/drain.
type DrainRequest struct {
	Address string `json:"address"` // ADDRESS or ADDRESS:PORT, the port being a container port
	Undo    bool   `json:"undo,omitempty"`
}

// DrainResult tells what a drain did.
type DrainResult struct {
	Address  string           `json:"address"`
	Draining bool             `json:"draining"` // false: it takes new connections again
	Changed  bool             `json:"changed"`  // false: it was so before
	Services []DrainedService `json:"services"`
	// Flows established to the address; -1: they could not be counted.
	Flows int    `json:"flows"`
	Note  string `json:"note,omitempty"`
}

// DrainedService is one service that has the address as a replica.
type DrainedService struct {
	Service string `json:"service"`
	Left    int    `json:"left"` // replicas that still take new connections
	Flows   int    `json:"flows"`
	Drain   string `json:"drain"` // how long established connections may go on once the replica is removed
}
