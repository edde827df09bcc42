// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
)

// failingWorkloads says which services do not start, or do not stay up, and why
// (row W03).
func (a *Agent) failingWorkloads() (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for name, n := range a.parts.naps.Naps() {
		if n.Failed {
			add("service %s: %s", name, n.Cause)
		}
	}
	state := a.engine.state()
	for _, r := range a.parts.replicas() {
		late := time.Duration(0)
		if svc, ok := state.Service(r.Service); ok && svc.Workload != nil {
			late = svc.Workload.Scale.StartTimeout
		}
		switch {
		case r.Phase == activator.Backoff:
			add("service %s: replica %s ended %s: %s", r.Service, r.ID, times(r.Restarts), cmp.Or(r.Reason, "nothing is known of why"))
		case r.Phase == activator.Starting && late > 0 && time.Since(r.Since) > late:
			add("service %s: replica %s: %s", r.Service, r.ID, r.Reason)
		}
	}
	slices.Sort(problems)
	if more := len(problems) - mostProblems; more > 0 {
		problems = append(problems[:mostProblems], fmt.Sprintf("and %d more of this kind: see \"fairlead workloads\"", more))
	}
	return problems
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
