// SPDX-License-Identifier: Apache-2.0

// Package process runs the replicas of workloads as plain programs: each in a
// network namespace with a veth, addresses and a cgroup of its own. It is an
// activator.Runner. Replicas outlive the agent; a new Runner adopts them.
//
// It changes nothing on the host but what it made: the fl-… links with their
// addresses, routes, neighbours and sysctls, cgroups below fairlead/, and files
// below its two directories. It does not balance, publish or wake anything.
package process

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/environment"
	"github.com/fairlead-lb/fairlead/pkg/ipam"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
	"github.com/fairlead-lb/fairlead/pkg/runner/rollout"
	"github.com/fairlead-lb/fairlead/pkg/runner/turns"
)

// Config is what a Runner needs. All but the directories and Network have
// defaults.
type Config struct {
	StateDir string // kept over reboots: logs/, and addresses where IPAM is nil
	RunDir   string // gone at a reboot: what runs, network namespaces, working directories
	// Cgroup is the cgroup2 directory to make fairlead/PROJECT.USER.N in
	// (fairlead-HASH/… where RunDir is not in /run/fairlead). Default: where
	// cgroup2 is mounted.
	Cgroup string
	// Network tells the prefixes that replicas get their addresses from; the
	// zero prefix turns a family off. A replica outside of them is replaced, but
	// not while both are zero.
	Network func() (v4, v6 netip.Prefix)
	// Resolver is what replicas see as /etc/resolv.conf; empty: the host's.
	// Running ones see a change; those that have seen the host's from the start
	// are replaced when it is no longer empty. Default: empty.
	Resolver func() string
	// Environment tells a replica that is about to start, Forget is called when
	// it is gone. Default: environment.Plain, and nothing.
	Environment func(s activator.Spec, replica string) (map[string]string, error)
	Forget      func(replica string) error
	// Listens calls back after every listen() in a cgroup2 directory and below,
	// until it is closed; so a replica is ready at once. nil, or an error:
	// replicas that start are looked at several times a second.
	Listens listen.Watch
	// IPAM keeps the addresses; the Runner must be its only user. Default: a
	// Pool over StateDir/replicas.json.
	IPAM *ipam.Pool
	Log  *slog.Logger     // default slog.Default()
	Now  func() time.Time // default time.Now

	BackoffMin, BackoffMax time.Duration // wait before a restart; default 100 ms, doubled up to 30 s
	BackoffReset           time.Duration // a run that was good for so long starts anew at BackoffMin; default 10 s
	LogSize                int64         // bytes after which a log is rotated; default 10 MiB
	LogEvery               time.Duration // how often logs are looked at; default 2 s
}

// Runner implements activator.Runner for the driver "process".
type Runner struct {
	cfg     Config
	backoff rollout.Backoff
	kick    chan struct{} // asks Run to compare what is wanted with what there is
	turns   *turns.Turns  // to start
	looks   listen.Looks
	ear     listen.Ear

	assigning sync.Mutex // a replica's addresses are allocated together, so that they look alike

	mu       sync.Mutex
	replicas map[string]*replica // by ID
	wanted   map[model.ServiceName]want
	applied  bool // wanted is known
	adopted  bool // replicas is complete
	closed   bool // Shutdown was called
	changed  func()
	heralded func(activator.Replica) (awaited bool) // nil: nobody wants to know
	stopAll  context.CancelFunc                     // ends the keepers of the present Run
	keepers  sync.WaitGroup
}

// want is one workload as it should run.
type want struct {
	spec     activator.Spec
	resolver bool
	hash     string
}

// with is another spec. States come every minute at least, with the same
// workloads but for a few: what is the same is not hashed again.
func (w want) with(s activator.Spec, resolver bool) want {
	same := w.hash != "" && w.resolver == resolver && w.spec.AnyPort == s.AnyPort && w.spec.Tokens == s.Tokens &&
		slices.Equal(w.spec.Ports, s.Ports) && reflect.DeepEqual(&w.spec.Workload, &s.Workload)
	if same {
		return want{spec: s, resolver: resolver, hash: w.hash}
	}
	return want{spec: s, resolver: resolver, hash: hashOf(s, resolver)}
}

// New checks the config. It makes and starts nothing.
func New(cfg Config) (*Runner, error) {
	if cfg.StateDir == "" || cfg.RunDir == "" || cfg.Network == nil {
		return nil, errors.New("process runner: StateDir, RunDir and Network are required")
	}
	var err error
	for _, dir := range []*string{&cfg.StateDir, &cfg.RunDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return nil, err
		}
	}
	if cfg.Cgroup == "" {
		if cfg.Cgroup, err = listen.Cgroup2(); err != nil {
			return nil, err
		}
	}
	cfg.Log = cmp.Or(cfg.Log, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Resolver == nil {
		cfg.Resolver = func() string { return "" }
	}
	if cfg.Environment == nil {
		cfg.Environment = func(s activator.Spec, replica string) (map[string]string, error) {
			return environment.Plain(s, replica), nil
		}
	}
	if cfg.Forget == nil {
		cfg.Forget = func(string) error { return nil }
	}
	if cfg.IPAM == nil {
		cfg.IPAM = ipam.New(ipam.Config{Path: filepath.Join(cfg.StateDir, "replicas.json"), Log: cfg.Log, Now: cfg.Now})
	}
	backoff := rollout.Backoff{Min: cfg.BackoffMin, Max: cfg.BackoffMax, Reset: cfg.BackoffReset}.Default()
	cfg.BackoffMax = backoff.Max
	cfg.LogSize = cmp.Or(cfg.LogSize, 10<<20)
	cfg.LogEvery = cmp.Or(cfg.LogEvery, 2*time.Second)
	return &Runner{
		cfg: cfg, backoff: backoff, kick: make(chan struct{}, 1), turns: turns.New(max(startsMost, runtime.NumCPU())),
		replicas: map[string]*replica{}, wanted: map[model.ServiceName]want{}, changed: func() {},
	}, nil
}

// Driver is "process".
func (r *Runner) Driver() string { return "process" }

// Herald has f told of every replica the moment it is ready. It implements
// activator.Herald.
func (r *Runner) Herald(f func(activator.Replica) (awaited bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heralded = f
}

// Apply replaces the wanted workloads. A workload that cannot be run is named
// in the error; what ran of it goes on.
func (r *Runner) Apply(_ context.Context, specs []activator.Spec) error {
	resolver := r.cfg.Resolver() // not under the lock: it is somebody else's code
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	if err := r.writeResolver(resolver); err != nil {
		errs = append(errs, fmt.Errorf("write the replicas' resolv.conf: %w", err))
	}
	wanted := make(map[model.ServiceName]want, len(specs))
	for _, s := range specs {
		if err := validate(s); err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", s.Service, err))
			if old, ok := r.wanted[s.Service]; ok {
				wanted[s.Service] = old
			}
			continue
		}
		wanted[s.Service] = r.wanted[s.Service].with(s, resolver != "")
	}
	r.wanted, r.applied = wanted, true
	r.poke()
	return errors.Join(errs...)
}

func validate(s activator.Spec) error {
	switch {
	case len(s.Workload.Command) == 0 || s.Workload.Command[0] == "":
		return errors.New("workload.command is empty; the process driver needs a program to run")
	case len(s.Ports) == 0:
		return errors.New("no ports; a replica needs run.containerPort to be reached")
	}
	return nil
}

// Replicas lists what there is, sorted by ID.
func (r *Runner) Replicas() []activator.Replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]activator.Replica, 0, len(r.replicas))
	for _, rep := range r.replicas {
		out = append(out, rep.public())
	}
	slices.SortFunc(out, func(a, b activator.Replica) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// poke asks Run for another look. It never blocks.
func (r *Runner) poke() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// update changes a replica under the lock and tells who listens.
func (r *Runner) update(f func()) {
	r.mu.Lock()
	f()
	changed := r.changed
	r.mu.Unlock()
	r.poke()
	changed()
}

// hashOf covers what a running process cannot be told: a change of it needs a
// new process.
func hashOf(s activator.Spec, resolver bool) string {
	b, err := json.Marshal(struct {
		Command  []string
		Env      map[string]string
		Ports    []listen.Port
		Resolver bool `json:",omitempty"`
		Told     []string
		AnyPort  bool `json:",omitempty"`
	}{s.Workload.Command, s.Workload.Env, listen.PortsOf(s.Ports), resolver, environment.Fixed(s), s.AnyPort})
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
