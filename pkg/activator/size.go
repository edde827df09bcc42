// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

const (
	// sizeLook is the time between two looks at the load of a service that may
	// have more replicas or fewer.
	sizeLook = time.Second
	// shrinkTime is how long one replica less must do before one goes. It counts
	// anew for every one of them.
	shrinkTime = 30 * time.Second
)

// Estimator is a Meter that has a quick answer, too.
type Estimator interface {
	// AtMost is no less than Connections; what else it counts is the replicas'
	// own matter.
	AtMost(model.ServiceName) (int, error)
}

// size is how many replicas a service has that may have more or fewer: enough
// for scale.target requests or connections each. It grows at once and shrinks
// slowly, one after the other.
type size struct {
	name   model.ServiceName
	driver string
	scale  model.Scale
	want   int
	load   int // at the last look
	since  time.Time
	cause  string
	spare  time.Time // since when one less would do; zero: it would not
	look   time.Time
	note   string // why it is not scaled
}

// floor is how many replicas a service has while it is in use.
func floor(s model.Scale) int { return max(1, s.Min) }

func maySize(svc *model.Service) bool {
	w := svc.Workload
	return w != nil && !w.Scale.Paused && w.Scale.Target > 0 && w.Scale.Max > floor(w.Scale)
}

// learnSizes takes over the services of a state. One that runs already keeps
// its replicas, as far as it may have them.
func (s *sleepers) learnSizes(st *model.State, drivers map[string]bool, now time.Time, running map[model.ServiceName]int) {
	there := map[model.ServiceName]bool{}
	for _, svc := range st.Services {
		if !maySize(svc) || !drivers[svc.Workload.Driver] {
			continue
		}
		there[svc.Name] = true
		z := s.sizes[svc.Name]
		if z == nil {
			z = &size{name: svc.Name, want: running[svc.Name], since: now, cause: "it began so"}
			s.sizes[svc.Name] = z
		}
		z.scale, z.driver = svc.Workload.Scale, svc.Workload.Driver
		z.want = z.within(z.want)
	}
	for name := range s.sizes {
		if !there[name] {
			delete(s.sizes, name)
		}
	}
}

func (z *size) within(n int) int { return min(max(n, floor(z.scale)), z.scale.Max) }

// step takes note of the load and says whether the number of replicas changes.
func (z *size) step(load int, now time.Time) bool {
	z.load = load
	need := z.within((load + z.scale.Target - 1) / z.scale.Target)
	switch {
	case need > z.want:
		z.want = need
	case need == z.want:
		z.spare = time.Time{}
		return false
	case z.spare.IsZero():
		z.spare = now
		return false
	case now.Sub(z.spare) < shrinkTime:
		return false
	default:
		z.want--
	}
	z.spare, z.since = time.Time{}, now
	z.cause = fmt.Sprintf("%d requests and connections, %d for each", load, z.scale.Target)
	return true
}

// inUse tells whether a service has replicas that could be more or fewer.
func (s *sleepers) inUse(name model.ServiceName) bool {
	_, stopped := s.stopped[name]
	x := s.by[name]
	return !stopped && (x == nil || x.stage == awake || x.stage == waking)
}

// lookAtSizes looks at those services whose time has come, and returns when the
// next one's will; the zero time: there is none in use.
func (a *Activator) lookAtSizes(ctx context.Context) (next time.Time) {
	s, now := &a.sleep, a.cfg.Now()
	var due []*size
	s.mu.Lock()
	for _, z := range s.sizes {
		if s.inUse(z.name) && !z.look.After(now) {
			due = append(due, z)
			z.look = now.Add(sizeLook)
		}
	}
	s.mu.Unlock()
	var requests map[model.ServiceName]int
	if len(due) > 0 {
		requests = a.cfg.InFlight()
	}
	for _, z := range due {
		a.resize(ctx, z, requests[z.name])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, z := range s.sizes {
		if s.inUse(z.name) && (next.IsZero() || z.look.Before(next)) {
			next = z.look
		}
	}
	return next
}

// resize has a service get the replicas it needs.
func (a *Activator) resize(ctx context.Context, z *size, requests int) {
	s := &a.sleep
	open, err := a.load(z)
	s.mu.Lock()
	changed := false
	switch {
	case s.sizes[z.name] != z || !s.inUse(z.name): // changed meanwhile
	case err != nil:
		z.note = err.Error()
	default:
		z.note = ""
		waiting := 0
		if x := s.by[z.name]; x != nil {
			waiting = x.waiting
		}
		changed = z.step(max(open, requests)+waiting, a.cfg.Now())
	}
	want, load := z.want, z.load
	s.mu.Unlock()
	if changed {
		a.cfg.Log.Info("scale workload", "service", z.name.String(), "replicas", want, "load", load)
		a.rescale(ctx, z.driver, z.name, want)
	}
}

// load counts the connections to a service that are in use. It is not exact
// where it makes no difference, as that takes the kernel milliseconds.
func (a *Activator) load(z *size) (int, error) {
	for _, r := range a.cfg.Runners {
		m, ok := r.(Meter)
		if !ok || r.Driver() != z.driver {
			continue
		}
		a.sleep.mu.Lock()
		least, enough := z.want == floor(z.scale), z.want*z.scale.Target
		a.sleep.mu.Unlock()
		if e, ok := r.(Estimator); ok && least {
			if n, err := e.AtMost(z.name); err == nil && n <= enough {
				return n, nil
			}
		}
		pooled := 0
		for _, rep := range r.Replicas() {
			if rep.Service == z.name && rep.Phase == Ready {
				for _, addr := range backendOf(rep, model.Ready).Addrs() {
					pooled += a.cfg.Pooled(addr)
				}
			}
		}
		n, err := m.Connections(z.name)
		return max(0, n-pooled), err
	}
	return 0, fmt.Errorf("it keeps its replicas: driver %s cannot tell how they are used", z.driver)
}

// Size is what is known of the number of replicas of a service.
type Size struct {
	Want, Min, Max int
	Load, Target   int       // requests and connections, of all and for each
	Since          time.Time // Want is so
	Cause          string    // of it
	Shrinks        time.Time // when one less will do, if the load stays; zero: no
	Note           string    // why it is not scaled
}

// Sizes tells of every service that may have more replicas or fewer.
func (a *Activator) Sizes() map[model.ServiceName]Size {
	s := &a.sleep
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[model.ServiceName]Size{}
	for name, z := range s.sizes {
		n := Size{
			Want: z.want, Min: z.scale.Min, Max: z.scale.Max, Load: z.load, Target: z.scale.Target, Since: z.since, Cause: z.cause, Note: z.note,
		}
		if !s.inUse(name) {
			n.Want, n.Load = 0, 0
		} else if !z.spare.IsZero() {
			n.Shrinks = z.spare.Add(shrinkTime)
		}
		out[name] = n
	}
	return out
}
