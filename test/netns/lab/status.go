// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// Status is what the tests read of `fairlead status -o json`.
type Status struct {
	Ready  bool `json:"ready"`
	PID    int  `json:"pid"`
	Config struct {
		Generation uint64 `json:"generation"`
		Error      string `json:"error"`
		Errors     uint64 `json:"errors"`
	} `json:"config"`
	Interfaces []struct {
		Name  string `json:"name"`
		XDP   string `json:"xdp"`
		TC    string `json:"tc"`
		Error string `json:"error"`
	} `json:"interfaces"`
	Problems []string `json:"problems"`
	Verdict  string   `json:"verdict"`
}

// Flow is one line of `fairlead flows -o json`.
type Flow struct {
	Service  string         `json:"service"`
	Protocol string         `json:"protocol"`
	Client   netip.AddrPort `json:"client"`
	VIP      netip.AddrPort `json:"vip"`
	Backend  netip.AddrPort `json:"backend"`
	State    string         `json:"state"`
}

// ServiceView is what the tests read of `fairlead services -o json`.
type ServiceView struct {
	Name  string     `json:"name"`
	VIP   netip.Addr `json:"vip"`
	VIP6  netip.Addr `json:"vip6"`
	Ports []struct {
		Service     uint16 `json:"service"`
		Protocol    string `json:"protocol"`
		Connections uint64 `json:"connections"`
	} `json:"ports"`
	Replicas []struct {
		Addr4     netip.Addr `json:"addr4"`
		Addr6     netip.Addr `json:"addr6"`
		Condition string     `json:"condition"`
		Check     string     `json:"check"`
		Reason    string     `json:"reason"`
	} `json:"replicas"`
}

// WorkloadView is what the tests read of `fairlead workloads -o json`.
type WorkloadView struct {
	ID      string     `json:"id"`
	Service string     `json:"service"`
	Phase   string     `json:"phase"`
	Reason  string     `json:"reason"`
	Addr4   netip.Addr `json:"addr4"`
	Addr6   netip.Addr `json:"addr6"`
	PID     int        `json:"pid"`
}

// Status asks the agent.
func (a *Agent) Status(t testing.TB) Status {
	t.Helper()
	var s Status
	a.JSON(t, &s, "status")
	return s
}

// Services asks the agent, by name.
func (a *Agent) Services(t testing.TB) map[string]ServiceView {
	t.Helper()
	var list []ServiceView
	a.JSON(t, &list, "services")
	m := map[string]ServiceView{}
	for _, s := range list {
		m[s.Name] = s
	}
	return m
}

// Flows asks the agent.
func (a *Agent) Flows(t testing.TB) []Flow {
	t.Helper()
	var list []Flow
	a.JSON(t, &list, "flows")
	return list
}

// Workloads asks the agent.
func (a *Agent) Workloads(t testing.TB) []WorkloadView {
	t.Helper()
	var list []WorkloadView
	a.JSON(t, &list, "workloads")
	return list
}

// WaitReady waits until a generation newer than after is in force.
func (a *Agent) WaitReady(t testing.TB, after uint64) {
	t.Helper()
	Poll(t, 30*time.Second, func() error {
		select {
		case <-a.proc.done:
			t.Fatalf("the agent ended: %v\n%s", a.proc.err, a.Log())
		default:
		}
		out, err := a.TryCLI("status", "-o", "json")
		if err != nil && out == "" {
			return err
		}
		var s Status
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			return fmt.Errorf("status: %w: %q", err, out)
		}
		if !s.Ready || s.Config.Generation <= after {
			return fmt.Errorf("ready %v at generation %d, wanted one after %d: %s %q", s.Ready, s.Config.Generation, after, s.Verdict, s.Problems)
		}
		return nil
	}, a.Log)
}

// Poll calls f until it returns nil, for at most timeout; then the test fails
// with f's last error and what the others say.
func Poll(t testing.TB, timeout time.Duration, f func() error, more ...func() string) {
	t.Helper()
	deadline := time.Now().Add(Patience(timeout))
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			var said []string
			for _, m := range more {
				said = append(said, m())
			}
			t.Fatalf("not within %v: %v\n%s", timeout, err, strings.Join(said, "\n"))
		}
		time.Sleep(Patience(20 * time.Millisecond))
	}
}

// ErrNotYet is for conditions that Poll waits for.
var ErrNotYet = errors.New("not yet")
