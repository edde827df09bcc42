// SPDX-License-Identifier: Apache-2.0

// Package docker runs the replicas of workloads as containers of a Docker
// daemon, by its Engine API. It is an activator.Runner. Containers outlive the
// agent, and tell by their labels what they are; a new Runner adopts them.
//
// It asks the daemon for nothing while no workload wants it. It does not
// balance, publish or wake anything.
package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/activator"
	"github.com/fairlead-lb/fairlead/pkg/dockerd"
	"github.com/fairlead-lb/fairlead/pkg/environment"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/listen"
	"github.com/fairlead-lb/fairlead/pkg/runner/rollout"
)

// Config is what a Runner needs. All but RunDir and Host have defaults.
type Config struct {
	// RunDir tells agents apart (see rollout.Owner), and holds a file that says
	// where containers are, for Cleanup.
	RunDir string
	// Host waits until the daemon's address is known, and tells it.
	Host func(context.Context) (string, error)
	// Cgroup is the cgroup2 directory to have containers below. Default: where
	// cgroup2 is mounted.
	Cgroup string
	// Listens calls back after every listen() in a cgroup2 directory and below,
	// so that a replica is ready at once. nil, or an error: replicas that start
	// are looked at several times a second.
	Listens listen.Watch
	// Environment tells a replica that is about to start; dir, if there is one,
	// is a directory of this machine that the replica sees at FilesAt. local: the
	// daemon sees such directories. Forget is called when a replica is gone.
	// Default: environment.Plain, and nothing.
	Environment func(s activator.Spec, replica string, local bool) (env map[string]string, dir string, err error)
	Forget      func(replica string) error
	// DNS are the name servers of replicas; none: the daemon's choice. Replicas
	// that have others are replaced. Default: none.
	DNS     func() []netip.Addr
	Log     *slog.Logger     // default slog.Default()
	Now     func() time.Time // default time.Now
	Backoff rollout.Backoff
}

// FilesAt is where a container sees what it is told by files: its access token,
// which is renewed, and the platform's public keys.
const FilesAt = "/run/secrets/fairlead"

// Runner implements activator.Runner for the driver "docker".
type Runner struct {
	cfg   Config
	owner string
	kick  chan struct{} // asks Run to compare what is wanted with what there is
	slots chan struct{} // bounds what the daemon is asked to do at once
	ear   listen.Ear
	looks listen.Looks

	mu       sync.Mutex
	replicas map[string]*replica // by ID
	wanted   map[model.ServiceName]want
	applied  bool // wanted is known
	closed   bool // Shutdown was called
	changed  func()
	stopAll  context.CancelFunc // ends the keepers of the present Run
	keepers  sync.WaitGroup
	daemon   *dockerd.Daemon // nil: its address is not known yet
	up       chan struct{}   // closed while the daemon answers and its containers are known
	away     string          // why it does not answer, in words
	place    place
	heralded func(activator.Replica) (awaited bool) // nil: nobody wants to know
}

// want is one workload as it should run.
type want struct {
	spec activator.Spec
	dns  []netip.Addr
	hash string
}

// New checks the config. It asks and starts nothing.
func New(cfg Config) (*Runner, error) {
	if cfg.RunDir == "" || cfg.Host == nil {
		return nil, errors.New("docker runner: RunDir and Host are required")
	}
	var err error
	if cfg.RunDir, err = filepath.Abs(cfg.RunDir); err != nil {
		return nil, err
	}
	cfg.Log = cmp.Or(cfg.Log, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.DNS == nil {
		cfg.DNS = func() []netip.Addr { return nil }
	}
	if cfg.Environment == nil {
		cfg.Environment = func(s activator.Spec, replica string, _ bool) (map[string]string, string, error) {
			return environment.Plain(s, replica), "", nil
		}
	}
	cfg.Backoff = cfg.Backoff.Default()
	return &Runner{
		cfg: cfg, owner: rollout.Owner(cfg.RunDir), kick: make(chan struct{}, 1), slots: make(chan struct{}, 4),
		replicas: map[string]*replica{}, wanted: map[model.ServiceName]want{}, changed: func() {}, up: make(chan struct{}),
	}, nil
}

// Driver is "docker".
func (r *Runner) Driver() string { return "docker" }

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
	dns := r.cfg.DNS() // not under the lock: it is somebody else's code
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	wanted := make(map[model.ServiceName]want, len(specs))
	for _, s := range specs {
		if err := validate(s); err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", s.Service, err))
			if old, ok := r.wanted[s.Service]; ok {
				wanted[s.Service] = old
			}
			continue
		}
		wanted[s.Service] = want{spec: s, dns: dns, hash: hashOf(s, dns)}
	}
	r.wanted, r.applied = wanted, true
	r.poke()
	return errors.Join(errs...)
}

func validate(s activator.Spec) error {
	switch {
	case s.Workload.Image == "":
		return errors.New("workload.image is empty; the docker driver needs an image to run")
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
		out = append(out, r.public(rep))
	}
	slices.SortFunc(out, func(a, b activator.Replica) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Scale sets how many replicas of one service run; false: no Apply has named
// it. It implements activator.Scaler.
func (r *Runner) Scale(name model.ServiceName, replicas int, idle bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, ok := r.wanted[name]
	if !ok {
		return false
	}
	w.spec.Replicas, w.spec.Idle = replicas, idle
	r.wanted[name] = w
	r.poke()
	return true
}

// Connections counts those open to the replicas of a service. It implements
// activator.Meter.
func (r *Runner) Connections(name model.ServiceName) (int, error) {
	n := 0
	for _, look := range r.serving(name) {
		if look.PID == 0 {
			return 0, errors.New("the processes of the Docker daemon's containers cannot be seen from here (it is on another machine, or in a virtual one), so nobody knows whether they are in use")
		}
		open, err := look.Connections()
		if err != nil {
			return 0, err
		}
		n += open
	}
	return n, nil
}

func (r *Runner) serving(name model.ServiceName) []listen.Replica {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []listen.Replica
	for _, rep := range r.replicas {
		if rep.service == name && rep.box.id != "" && rep.phase != activator.Stopping {
			out = append(out, rep.sockets())
		}
	}
	return out
}

// Listening says in words why nothing answers TCP at an address of a replica:
// what listens there instead. Empty: something answers, the address is no
// running replica's, or there was no time to look. It takes a second at most.
// Safe for concurrent use.
func (r *Runner) Listening(to netip.AddrPort) string {
	r.mu.Lock()
	id, pid := "", 0
	for _, rep := range r.replicas {
		if (rep.box.addr4 == to.Addr() || rep.box.addr6 == to.Addr()) && rep.box.pid != 0 {
			id, pid = rep.id, rep.box.pid
		}
	}
	r.mu.Unlock()
	if id == "" {
		return ""
	}
	why, err := r.looks.Instead(id, pid, fmt.Sprintf("/proc/%d/ns/net", pid), to)
	if err != nil {
		r.cfg.Log.Debug("look what a replica listens on", "replica", id, "error", err)
	}
	return why
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
