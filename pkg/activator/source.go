// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// workloads is the source.Source of what the Runners run.
type workloads struct {
	activator *Activator
	changed   chan struct{}

	mu        sync.Mutex
	publish   func(source.Part) // nil while Run does not run
	last      source.Part
	synced    bool // last was published
	withdrawn bool
}

// Source publishes the replicas that are ready, and, as draining, those that
// are about to stop. It also runs the Runners: without it they do nothing.
func (a *Activator) Source() source.Source { return a.source }

// Name is "workloads".
func (w *workloads) Name() string { return "workloads" }

// Run runs the Runners until ctx ends. The first Part comes once each of them
// has adopted what an earlier agent left; one that fails is run again, and it
// is the Merge's grace period that ends the wait for it.
func (w *workloads) Run(ctx context.Context, publish func(source.Part)) error {
	runners := w.activator.cfg.Runners
	w.mu.Lock()
	w.publish, w.synced = publish, false
	w.mu.Unlock()
	var wg, adopting sync.WaitGroup
	defer func() {
		wg.Wait()
		w.mu.Lock()
		w.publish = nil
		w.mu.Unlock()
	}()
	adopting.Add(len(runners))
	for _, r := range runners {
		adopted := sync.OnceFunc(adopting.Done)
		wg.Go(func() {
			defer adopted() // so that the wait below ends
			w.keep(ctx, r, adopted)
		})
	}
	adopting.Wait()
	wg.Go(func() { w.activator.watch(ctx) })
	wg.Go(func() { w.activator.keeper(ctx) })
	for ctx.Err() == nil {
		w.update()
		select {
		case <-ctx.Done():
		case <-w.changed:
		}
	}
	return nil
}

// retryMin is the time before a failed Runner is run again for the first time;
// it doubles up to Config.Retry.
const retryMin = 100 * time.Millisecond

// keep runs one Runner, again and again if it fails. adopted is called when
// it knows its replicas.
func (w *workloads) keep(ctx context.Context, r Runner, adopted func()) {
	a := w.activator
	for pause := retryMin; ; pause = min(2*pause, a.cfg.Retry) {
		err := r.Run(ctx, func() {
			a.setFailure(r.Driver(), nil)
			adopted()
			w.notify()
		})
		if ctx.Err() != nil || w.isWithdrawn() {
			return
		}
		if err == nil {
			err = errors.New("ended")
		}
		err = fmt.Errorf("run driver %s: %w", r.Driver(), err)
		if old := a.failure(r.Driver()); old == nil || old.Error() != err.Error() {
			a.cfg.Log.Error("workloads do not run", "driver", r.Driver(), "error", err)
		}
		a.setFailure(r.Driver(), err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (w *workloads) notify() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// update publishes if the replicas differ from what was published.
func (w *workloads) update() {
	replicas := w.activator.observe()
	part := w.activator.partOf(replicas)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.publish == nil || w.withdrawn || w.synced && reflect.DeepEqual(part, w.last) {
		return
	}
	w.last, w.synced = part, true
	w.publish(part)
}

func (w *workloads) withdraw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.withdrawn = true
	if w.publish != nil {
		w.publish(source.Part{})
	}
}

func (w *workloads) isWithdrawn() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.withdrawn
}

// partOf makes backends of the replicas that serve, and of those that still
// have connections to finish; and says which services sleep.
func (a *Activator) partOf(replicas []Replica) source.Part {
	part := source.Part{Replicas: map[model.ServiceName][]model.Backend{}, Sleep: map[model.ServiceName]model.Sleep{}, Naps: map[model.ServiceName]uint64{}}
	a.sleep.mu.Lock()
	defer a.sleep.mu.Unlock()
	for _, r := range replicas {
		x, b := a.sleep.by[r.Service], backendOf(r, model.Ready)
		switch {
		case len(b.Addrs()) == 0:
			continue
		case r.Phase == Ready && x != nil && (x.stage == dozing || x.stage == asleep):
			b.Condition = model.Draining
		case r.Phase == Ready:
			if x != nil {
				part.Sleep[r.Service] = model.Awake
			}
		case r.Phase == Stopping:
			b.Condition = model.Draining
		default:
			continue
		}
		part.Replicas[r.Service] = append(part.Replicas[r.Service], b)
	}
	for name, x := range a.sleep.by {
		if x.nap > 0 {
			part.Naps[name] = x.nap
		}
		if _, stopped := a.sleep.stopped[name]; stopped {
			delete(part.Sleep, name)
		} else if part.Sleep[name] == model.NeverSleeps {
			part.Sleep[name] = model.Asleep
		}
	}
	return part
}

func backendOf(r Replica, c model.Condition) model.Backend {
	return model.Backend{Addr4: r.Addr4, Addr6: r.Addr6, Weight: 1, Replica: r.ID, Container: r.Port, Condition: c}
}
