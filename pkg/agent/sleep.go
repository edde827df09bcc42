// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
)

// told is a target that tells of every state it has applied.
type told struct {
	reconcile.Target
	tell func(*model.State)
}

// Apply tells if it could.
func (t *told) Apply(ctx context.Context, s *model.State) error {
	err := t.Target.Apply(ctx, s)
	if err == nil {
		t.tell(s)
	}
	return err
}

// opened counts what has been led to services so far: connections by the data
// plane, connections by name, and requests. Counters of the data plane that
// cannot be read are left out; open connections tell of use, too.
func (a *Agent) opened() map[model.ServiceName]uint64 {
	out := map[model.ServiceName]uint64{}
	if st, err := a.parts.stats(); err == nil {
		for _, c := range st.Services {
			out[c.Service] += c.Connections
		}
	}
	for _, n := range a.parts.tcp.Names() {
		out[n.Service] += n.Connections
	}
	for _, r := range a.parts.requests() {
		name, err := model.ParseServiceName(r.Service)
		if err != nil {
			continue // of no service
		}
		for _, n := range r.Codes {
			out[name] += n
		}
	}
	return out
}

// sleepVerb wakes a workload, puts it to sleep, stops it or starts it again.
func (a *Agent) sleepVerb(ctx context.Context, r admin.SleepRequest) (admin.SleepResult, error) {
	name, err := serviceNamed(a.engine.state(), r.Service)
	if err != nil {
		return admin.SleepResult{}, &admin.Refusal{Code: http.StatusNotFound, Err: err}
	}
	act := a.parts.naps
	var ready []model.Backend
	switch r.Verb {
	case "wake":
		ready, err = act.Wake(ctx, name, "operator", "fairlead wake")
	case "sleep":
		err = act.Sleep(name)
	case "stop":
		err = act.Stop(ctx, name)
	case "start":
		err = act.Start(ctx, name)
	default:
		err = fmt.Errorf("verb %q: want wake, sleep, stop or start", r.Verb)
	}
	switch {
	case errors.Is(err, activator.ErrNoSleeper):
		err = fmt.Errorf("service %s does not sleep: give its workload \"scale: {min: 0}\", and TCP ports only", name)
		return admin.SleepResult{}, &admin.Refusal{Code: http.StatusConflict, Err: err}
	case err != nil:
		return admin.SleepResult{}, &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("%s service %s: %w", r.Verb, name, err)}
	}
	res := admin.SleepResult{Service: name.String(), Sleep: admin.Nap{Stage: "running"}}
	for _, b := range ready {
		res.Replicas = append(res.Replicas, admin.NewReplica(b))
	}
	if n, ok := act.Naps()[name]; ok {
		res.Sleep = *napOf(n)
	}
	return res, nil
}

func napOf(n activator.Nap) *admin.Nap {
	out := &admin.Nap{Stage: n.Stage, Cause: n.Cause, Waiting: n.Waiting, Note: n.Note}
	if !n.Since.IsZero() {
		out.Since = &n.Since
	}
	if !n.Until.IsZero() {
		out.Until = &n.Until
	}
	return out
}

// wakes is what the metrics tell of starts.
func (a *Agent) wakes() metrics.Wakes {
	counts, ready, seconds := a.parts.naps.Wakes()
	w := metrics.Wakes{Ready: ready, Seconds: seconds}
	for _, c := range counts {
		w.Counts = append(w.Counts, metrics.WakeCount{Cause: c.Cause, Result: c.Result, Count: c.Count})
	}
	for _, n := range a.parts.naps.Naps() {
		if n.Stage == "asleep" {
			w.Asleep++
		}
	}
	return w
}
