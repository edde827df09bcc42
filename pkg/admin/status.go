// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// Status is GET /v1/status.
type Status struct {
	Verdict       string    `json:"verdict"` // one line for a person
	Ready         bool      `json:"ready"`   // every target has applied the newest generation
	Version       string    `json:"version"`
	PID           int       `json:"pid"`
	RunDir        string    `json:"runDir"`
	StateDir      string    `json:"stateDir"`
	StartedAt     time.Time `json:"startedAt"`
	UptimeSeconds float64   `json:"uptimeSeconds"`
	Stopping      bool      `json:"stopping,omitempty"`
	Entering      bool      `json:"entering,omitempty"` // it has not taken the place of the agent before yet
	// Older are agents before this one that still hold connections of clients.
	Older   []OlderAgent `json:"older,omitempty"`
	Upgrade *Upgrade     `json:"upgrade,omitempty"` // the last one that this agent began and that did not come to an end

	Config       Config             `json:"config"`
	Counts       Counts             `json:"counts"`
	Sources      []source.Status    `json:"sources"`
	Targets      []reconcile.Status `json:"targets"`
	Interfaces   []Interface        `json:"interfaces"`
	Cgroups      []Cgroup           `json:"cgroups"`
	Packets      []Packets          `json:"packets"`
	Front        Front              `json:"front"`
	Drains       []string           `json:"drains"`
	Problems     []string           `json:"problems"`
	NotServedYet []NotServed        `json:"notServedYet"`
}

// OlderAgent is an agent whose place was taken, while its connections go on.
type OlderAgent struct {
	PID         int       `json:"pid"` // 0: of another PID namespace
	Connections int       `json:"connections"`
	Until       time.Time `json:"until,omitzero"` // when it cuts them
}

// Upgrade is an agent that was to take this one's place.
type Upgrade struct {
	PID   int       `json:"pid"`
	Time  time.Time `json:"time"`            // of the start, or of the error
	Error string    `json:"error,omitempty"` // why it did not; empty: not known yet
}

// Config is where the desired state comes from.
type Config struct {
	Path       string `json:"path"`
	Generation uint64 `json:"generation"` // of the newest desired state; 0: none yet
	Error      string `json:"error,omitempty"`
	Errors     uint64 `json:"errors"` // invalid configs seen since the start
}

// Counts sums up the desired state.
type Counts struct {
	Services  int    `json:"services"`
	Replicas  int    `json:"replicas"`
	Ready     int    `json:"ready"` // replicas that take new connections
	Flows     uint64 `json:"flows"`
	FlowLimit uint64 `json:"flowLimit"`
	Evictions uint64 `json:"evictions"`
}

// Interface is a network interface that carries a program, or should.
type Interface struct {
	Name  string `json:"name"`
	Index uint32 `json:"index,omitempty"` // 0: there is none of this name
	Role  string `json:"role"`            // "nic" | "workload"
	XDP   string `json:"xdp,omitempty"`   // "native" | "generic"
	TC    string `json:"tc,omitempty"`    // "tcx" | "clsact"
	Slot  uint32 `json:"slot,omitempty"`  // of its packet counters
	Note  string `json:"note,omitempty"`  // why it is not better
	Error string `json:"error,omitempty"` // why it is not as asked
}

// Cgroup is a cgroup whose processes get connect-time balancing.
type Cgroup struct {
	Path  string   `json:"path"`
	Hooks []string `json:"hooks"`
	Note  string   `json:"note,omitempty"` // what is missing, and why
}

// Front is the HTTP front.
type Front struct {
	HTTP  string `json:"http,omitempty"`  // address that is open; empty: none
	HTTPS string `json:"https,omitempty"` // the same with TLS
	Hosts int    `json:"hosts"`
}

// Packets is one cell of fairlead_packets_total, since the maps were made.
type Packets struct {
	Interface string `json:"interface"` // "other": those without counters of their own
	Direction string `json:"direction"` // "in" from clients | "out" from replicas
	Verdict   string `json:"verdict"`   // "forward" | "pass" | "drop" | "answer"
	Reason    string `json:"reason"`
	Count     uint64 `json:"count"`
}

// NotServed is a part of the config whose behaviour this version lacks.
type NotServed struct {
	Feature  string   `json:"feature"`
	Services []string `json:"services"` // empty: a setting
}

// Judge fills in Verdict and Ready from the rest.
func (s *Status) Judge() {
	behind := s.Behind()
	s.Ready = len(behind) == 0 && !s.Stopping && !s.Entering
	switch {
	case s.Stopping:
		s.Verdict = "fairlead is stopping: draining its workloads"
	case s.Entering:
		s.Verdict = "fairlead is taking the place of the agent before it"
	case s.Config.Generation == 0:
		s.Verdict = "fairlead is starting: " + s.waiting()
	case len(behind) > 0:
		s.Verdict = fmt.Sprintf("fairlead is running with trouble: %s, %s, %s not at generation %d", plural(s.Counts.Services, "service"),
			plural(s.Counts.Replicas, "replica"), strings.Join(s.late(), " and "), s.Config.Generation)
	default:
		s.Verdict = fmt.Sprintf("fairlead is running: %s, %s, all targets at generation %d",
			plural(s.Counts.Services, "service"), plural(s.Counts.Replicas, "replica"), s.Config.Generation)
	}
	if s.Config.Error != "" && s.Config.Generation > 0 {
		s.Verdict += "; the config file was refused and the last good one is in force"
	}
}

// Behind names each target that has not applied the newest generation, and
// why; empty: all have.
func (s *Status) Behind() []string {
	if s.Config.Generation == 0 {
		return []string{"no desired state yet: " + s.waiting()}
	}
	var out []string
	for _, t := range s.Targets {
		switch {
		case t.Error != "":
			out = append(out, fmt.Sprintf("target %s at generation %d of %d: %s", t.Target, t.Generation, s.Config.Generation, t.Error))
		case t.Generation < s.Config.Generation:
			out = append(out, fmt.Sprintf("target %s at generation %d of %d", t.Target, t.Generation, s.Config.Generation))
		}
	}
	return out
}

// late names the targets that Behind explains.
func (s *Status) late() []string {
	var names []string
	for _, t := range s.Targets {
		if t.Error != "" || t.Generation < s.Config.Generation {
			names = append(names, t.Target)
		}
	}
	return names
}

func (s *Status) waiting() string {
	var names []string
	for _, src := range s.Sources {
		if !src.Synced {
			names = append(names, src.Name)
		}
	}
	if len(names) == 0 {
		return "the first state is being built"
	}
	return "waiting for source " + strings.Join(names, ", ")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// normalize replaces nil lists, so that a program always finds an array.
func (s *Status) normalize() {
	s.Sources = list(s.Sources)
	s.Targets = list(s.Targets)
	s.Interfaces = list(s.Interfaces)
	s.Cgroups = list(s.Cgroups)
	s.Packets = list(s.Packets)
	s.Drains = list(s.Drains)
	s.Problems = list(s.Problems)
	s.NotServedYet = slices.Clone(list(s.NotServedYet))
	for i := range s.NotServedYet {
		s.NotServedYet[i].Services = list(s.NotServedYet[i].Services)
	}
}

func list[T any](in []T) []T {
	if in == nil {
		return []T{}
	}
	return in
}
