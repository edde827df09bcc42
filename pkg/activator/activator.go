// SPDX-License-Identifier: Apache-2.0

// Package activator keeps the workloads of the desired state running: it is a
// Target that tells each driver's Runner how many replicas are wanted, and a
// Source that publishes the replicas that are ready. It never writes maps and
// knows no driver.
package activator

import (
	"context"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Spec is one workload as a Runner should have it.
type Spec struct {
	Service  model.ServiceName
	Workload model.Workload
	Ports    []model.Port
	Replicas int // how many should run
}

// Phase is where a replica is in its life.
type Phase string

// Phases of a replica.
const (
	Starting Phase = "starting" // process started, not ready yet
	Ready    Phase = "ready"
	Backoff  Phase = "backoff" // ended; will be started again at Next
	Stopping Phase = "stopping"
)

// Replica is one instance of a workload as its Runner sees it.
type Replica struct {
	ID       string            `json:"id"` // unique on the node, stable over restarts of the replica
	Service  model.ServiceName `json:"service"`
	Driver   string            `json:"driver"`
	Phase    Phase             `json:"phase"`
	Reason   string            `json:"reason,omitempty"` // why it is not ready, in words
	Addr4    netip.Addr        `json:"addr4,omitzero"`
	Addr6    netip.Addr        `json:"addr6,omitzero"`
	PID      int               `json:"pid,omitempty"`
	Since    time.Time         `json:"since"` // of the phase
	Next     time.Time         `json:"next,omitzero"`
	Restarts int               `json:"restarts"`
	Log      string            `json:"log,omitempty"` // path of the log file
}

// Runner starts and stops the replicas of one driver. Replicas outlive the
// agent: a new Runner adopts what the last one left.
type Runner interface {
	// Driver is the value of workload.driver it serves.
	Driver() string
	// Apply replaces the whole set of wanted workloads. It returns soon;
	// starting goes on in the background. An error names what cannot be done
	// and does not keep the other workloads from being run.
	Apply(ctx context.Context, specs []Spec) error
	// Replicas is the present set, sorted by ID.
	Replicas() []Replica
	// Run watches the replicas, restarts what ended (with backoff) and calls
	// changed after every change of Replicas, until ctx ends. It first adopts
	// what an earlier agent left. It leaves the replicas running.
	Run(ctx context.Context, changed func()) error
	// Shutdown stops every replica: SIGTERM, then SIGKILL after the time left
	// in ctx or 10 s; and removes what was made for them.
	Shutdown(ctx context.Context) error
}
