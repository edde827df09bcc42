// SPDX-License-Identifier: Apache-2.0

// Package activator keeps the workloads of the desired state running: it is a
// Target that tells each driver's Runner how many replicas are wanted, and a
// Source that publishes the replicas that are ready. It never writes maps and
// knows no driver.
package activator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Spec is one workload as a Runner should have it.
type Spec struct {
	Service  model.ServiceName
	Workload model.Workload
	Ports    []model.Port
	Tokens   model.Tokens // of the platform: what the environment tells
	// AnyPort: nobody wrote the only container port. If a replica does not
	// listen on it, the first that it listens on for others is its port (row D04).
	AnyPort  bool
	Replicas int  // how many should run
	Idle     bool // none, as nobody uses them: UDP has nothing to finish
	// Drain is how long connections to a replica that is to go may live on.
	Drain time.Duration
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
	ID      string            `json:"id"` // unique on the node, stable over restarts of the replica
	Service model.ServiceName `json:"service"`
	Driver  string            `json:"driver"`
	Phase   Phase             `json:"phase"`
	Reason  string            `json:"reason,omitempty"` // why it is not ready, in words
	Addr4   netip.Addr        `json:"addr4,omitzero"`
	Addr6   netip.Addr        `json:"addr6,omitzero"`
	Port    uint16            `json:"port,omitempty"` // that it was found to listen on, with Spec.AnyPort; 0: the Spec's
	PID     int               `json:"pid,omitempty"`
	Queued  bool              `json:"queued,omitempty"` // starting, but not yet: it waits for its turn
	// Hopeless: to start it again as it is will not help, as its program or
	// image is not there.
	Hopeless bool      `json:"hopeless,omitempty"`
	Started  time.Time `json:"started,omitzero"` // of its process; zero: none runs, or it is not known
	Since    time.Time `json:"since"`            // of the phase
	Next     time.Time `json:"next,omitzero"`
	Restarts int       `json:"restarts"`
	Log      string    `json:"log,omitempty"` // path of the log file
}

// Runner starts and stops the replicas of one driver. Replicas outlive the
// agent: a new Runner adopts what the last one left.
type Runner interface {
	// Driver is the value of workload.driver it serves.
	Driver() string
	// Apply replaces the whole set of wanted workloads, which stay as they are from
	// then on. It returns soon;
	// starting goes on in the background. An error names what cannot be done
	// and does not keep the other workloads from being run.
	Apply(ctx context.Context, specs []Spec) error
	// Replicas is the present set, sorted by ID.
	Replicas() []Replica
	// Run watches the replicas, restarts what ended (with backoff) and calls
	// changed after every change of Replicas, until ctx ends. It first adopts
	// what an earlier agent left, and then calls changed once, also when there
	// was nothing. It leaves the replicas running.
	Run(ctx context.Context, changed func()) error
	// Shutdown stops every replica: SIGTERM, then SIGKILL after the time left
	// in ctx or 10 s; and removes what was made for them.
	Shutdown(ctx context.Context) error
}

// Herald is a Runner that tells of a replica the moment it is ready, so that
// those who wait for it need not wait until the news has gone round.
type Herald interface {
	// Herald has f called for every replica that becomes ready, which may be
	// before Replicas says so. f tells whether somebody waited for it, who goes on
	// now: they had better not be in each other's way with what follows from the
	// news for all others. It is called before Run; f does not block and calls no
	// Runner.
	Herald(f func(Replica) (awaited bool))
}

// Config is what an Activator needs.
type Config struct {
	Runners []Runner     // one per driver
	Log     *slog.Logger // default slog.Default()
	// Retry bounds the time before a Runner whose Run failed is run again.
	// Default 10 s.
	Retry time.Duration
	// SleepFile keeps over restarts which services sleep and which are stopped;
	// empty: nothing is kept.
	SleepFile string
	// Opened counts what has been led to some services so far, and may tell of
	// others as well. Default: nothing is known.
	Opened func(of func(model.ServiceName) bool) map[model.ServiceName]uint64
	// Pooled counts the connections to a replica's address that a front keeps
	// for its next request: they are no use of it. Default: none.
	Pooled func(netip.Addr) int
	// InFlight counts the requests under way at the HTTP front. Default: none.
	InFlight func() map[model.ServiceName]int
	Now      func() time.Time // default time.Now
}

// Activator is the reconcile.Target that has workloads run. What is running
// is published by its Source.
type Activator struct {
	cfg    Config
	source *workloads

	mu     sync.Mutex
	failed map[string]error // by driver: why its Runner does not run

	sleep    sleepers
	keeping  sync.Mutex // one writer of the SleepFile at a time; guards unkept
	unkept   error      // why the SleepFile is not up to date; nil: it is
	applying sync.Mutex // one Apply of the Runners at a time
	last     *model.State
}

// New makes the Activator of a set of Runners.
func New(cfg Config) *Activator {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Retry == 0 {
		cfg.Retry = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Opened == nil {
		cfg.Opened = func(func(model.ServiceName) bool) map[model.ServiceName]uint64 { return nil }
	}
	if cfg.Pooled == nil {
		cfg.Pooled = func(netip.Addr) int { return 0 }
	}
	if cfg.InFlight == nil {
		cfg.InFlight = func() map[model.ServiceName]int { return nil }
	}
	a := &Activator{cfg: cfg, failed: map[string]error{}}
	a.recall()
	for _, r := range cfg.Runners {
		if h, ok := r.(Herald); ok {
			h.Herald(a.heralded)
		}
	}
	a.source = &workloads{activator: a, changed: make(chan struct{}, 1)}
	return a
}

// Name is "activator".
func (a *Activator) Name() string { return "activator" }

// Serves lists the drivers that there is a Runner for, and what all of them
// can.
func (a *Activator) Serves() []model.Feature {
	known := map[string]model.Feature{
		"process": model.FeatureProcess, "docker": model.FeatureDocker, "kubernetes": model.FeatureKubernetes,
	}
	var fs []model.Feature
	for _, r := range a.cfg.Runners {
		if f, ok := known[r.Driver()]; ok {
			fs = append(fs, f)
		}
	}
	if len(fs) > 0 {
		fs = append(fs, model.FeatureSleep, model.FeatureIdentity, model.FeatureHTTPHead)
	}
	return fs
}

// Apply tells every Runner which of the state's workloads are its own.
// Workloads whose driver has no Runner are left alone.
func (a *Activator) Apply(ctx context.Context, s *model.State) error {
	drivers, running := map[string]bool{}, map[model.ServiceName]int{}
	for _, r := range a.cfg.Runners {
		drivers[r.Driver()] = true
		for _, rep := range r.Replicas() {
			if rep.Phase != Stopping {
				running[rep.Service]++
			}
		}
	}
	a.sleep.learn(s, drivers, a.cfg.Now(), running)
	a.source.notify()
	a.sleep.poke()
	a.applying.Lock()
	defer a.applying.Unlock()
	a.last = s
	return a.applyLocked(ctx, s)
}

func (a *Activator) applyLocked(ctx context.Context, s *model.State) error {
	specs := map[string][]Spec{}
	for i := range s.Services {
		if svc := s.Services[i]; svc.Workload != nil {
			specs[svc.Workload.Driver] = append(specs[svc.Workload.Driver], a.specOf(svc, s.Settings.Tokens))
		}
	}
	var errs []error
	for _, r := range a.cfg.Runners {
		if err := r.Apply(ctx, specs[r.Driver()]); err != nil {
			errs = append(errs, fmt.Errorf("run workloads of driver %s: %w", r.Driver(), err))
		}
		if err := a.failure(r.Driver()); err != nil && len(specs[r.Driver()]) > 0 {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// wantedOf is how many replicas of a service run while it is in use.
func wantedOf(svc *model.Service) int {
	if svc.Workload.Scale.Paused {
		return 0
	}
	return floor(svc.Workload.Scale)
}

// specOf is the workload of a service, with the replicas it shall have now.
func (a *Activator) specOf(svc *model.Service, t model.Tokens) Spec {
	n, idle := a.sleep.replicas(svc.Name, wantedOf(svc))
	s := Spec{Service: svc.Name, Workload: *svc.Workload, Ports: svc.Ports, Tokens: t, Replicas: n, Idle: idle, Drain: svc.Drain}
	if svc.Assumed != 0 && len(s.Ports) == 1 {
		s.AnyPort, s.Ports = true, slices.Clone(s.Ports) // what a replica is told does not depend on what it did
		s.Ports[0].Container = svc.Assumed
	}
	return s
}

// Replicas lists what all Runners have, sorted by ID.
func (a *Activator) Replicas() []Replica {
	var all []Replica
	for _, r := range a.cfg.Runners {
		all = append(all, r.Replicas()...)
	}
	slices.SortFunc(all, func(x, y Replica) int { return cmp.Compare(x.ID, y.ID) })
	return all
}

// Shutdown takes every replica out of the published Part, so that targets stop
// sending to it, then stops them all (see Runner). Nothing is published after.
func (a *Activator) Shutdown(ctx context.Context) error {
	a.source.withdraw()
	errs := make([]error, len(a.cfg.Runners))
	var wg sync.WaitGroup
	for i, r := range a.cfg.Runners {
		wg.Go(func() {
			if err := r.Shutdown(ctx); err != nil {
				errs[i] = fmt.Errorf("stop workloads of driver %s: %w", r.Driver(), err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (a *Activator) failure(driver string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed[driver]
}

func (a *Activator) setFailure(driver string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed[driver] = err
}
