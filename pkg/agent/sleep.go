// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/ingress"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
)

// telling is a target that tells of every state it has applied.
type telling struct {
	reconcile.Target
	tell func(*model.State)
}

// Apply tells if it could.
func (t *telling) Apply(ctx context.Context, s *model.State) error {
	err := t.Target.Apply(ctx, s)
	if err == nil {
		t.tell(s)
	}
	return err
}

// opened counts what has been led to some services so far: connections by the
// data plane, of UDP datagrams, connections by name, and requests. Counters of the
// data plane that cannot be read are left out; open connections tell of use, too.
// It may count for other services as well.
func (a *Agent) opened(of func(model.ServiceName) bool) map[model.ServiceName]uint64 {
	out := map[model.ServiceName]uint64{}
	if counts, err := a.parts.counts(of); err == nil {
		for _, c := range counts {
			if out[c.Service] += c.Connections; c.Port.Protocol == model.UDP {
				out[c.Service] += c.PacketsIn + c.PacketsOut
			}
		}
	}
	for name, n := range a.parts.locals() {
		out[name] += n
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

// inFlight is what the HTTP front has under way, by service.
func inFlight(counts []ingress.Count) map[model.ServiceName]int {
	out := map[model.ServiceName]int{}
	for _, c := range counts {
		if name, err := model.ParseServiceName(c.Service); err == nil && c.Active > 0 {
			out[name] = int(c.Active)
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
	if r.DryRun {
		return a.wouldSleep(ctx, name, r.Verb)
	}
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
		err = fmt.Errorf("service %s does not sleep: give its workload \"scale: {min: 0}\"", name)
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

// wouldSleep says what putting a service to sleep, or stopping it, would do.
func (a *Agent) wouldSleep(ctx context.Context, name model.ServiceName, verb string) (admin.SleepResult, error) {
	res := admin.SleepResult{Service: name.String(), Sleep: admin.Nap{Stage: "running"}}
	n, sleeps := a.parts.naps.Naps()[name]
	if sleeps {
		res.Sleep = *napOf(n)
	}
	res.Uses, res.More = a.usesOf(ctx, name)
	open := len(res.Uses) + res.More
	switch {
	case verb == "sleep" && !sleeps:
		return res, &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("service %s does not sleep: give its workload \"scale: {min: 0}\"", name)}
	case verb != "sleep" && verb != "stop":
		return res, &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("%s cuts nothing: --dry-run is for sleep and stop", verb)}
	case n.Stage == "stopped", verb == "sleep" && n.Stage == "asleep":
		res.Would = "nothing: it is " + n.Stage
	case verb == "stop":
		svc, _ := a.engine.state().Service(name)
		res.Would = fmt.Sprintf("stop its replicas; new connections are refused, and what is open (%d) has the drain time of %s to end", open, drainOf(svc))
	case n.Stage == "waking":
		res.Would = fmt.Sprintf("nothing: it is starting, and %d wait for it", n.Waiting)
	case open > 0:
		res.Would = fmt.Sprintf("nothing: it is in use, and nothing is cut; it falls asleep by itself when it is idle. Open: %d", open)
	default:
		res.Would = "stop its replicas, and cut nothing: nobody uses it; a connection that comes meanwhile is held and wakes it again"
	}
	return res, nil
}

func drainOf(svc *model.Service) time.Duration {
	if svc == nil {
		return 0
	}
	return svc.Drain
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

func scaleOf(z activator.Size) *admin.Scale {
	out := &admin.Scale{Want: z.Want, Min: z.Min, Max: z.Max, Load: z.Load, Target: z.Target, Since: z.Since, Cause: z.Cause, Note: z.Note}
	if !z.Shrinks.IsZero() {
		out.Shrinks = &z.Shrinks
	}
	return out
}

// wakes is what the metrics tell of starts.
func (a *Agent) wakes() metrics.Wakes {
	counts, times := a.parts.naps.Wakes()
	w := metrics.Wakes{Replicas: map[string]int{}, Asleep: map[string]bool{}}
	for _, c := range counts {
		w.Counts = append(w.Counts, metrics.WakeCount{Service: c.Service.String(), Cause: c.Cause, Result: c.Result, Count: c.Count})
	}
	for _, d := range times {
		w.Times = append(w.Times, metrics.WakeTime{Service: d.Service.String(), Phase: d.Phase, Count: d.Count, Seconds: d.Seconds})
	}
	for name, z := range a.parts.naps.Sizes() {
		w.Replicas[name.String()] = z.Want
	}
	for name, n := range a.parts.naps.Naps() {
		w.Asleep[name.String()] = n.Stage == "asleep"
	}
	return w
}
