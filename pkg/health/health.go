// SPDX-License-Identifier: Apache-2.0

// Package health checks replicas actively. A Checker is a target, which learns
// from the state what to check, and a source, which publishes the replicas
// found down as conditions. It never writes maps, never tells a service whose
// replicas all fail to stop (see service.judge), and does not check UDP ports:
// there is no question every UDP server answers.
package health

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Config is what a Checker needs; the zero value is production. The clock is
// package time's, which testing/synctest replaces.
type Config struct {
	Log *slog.Logger // default slog.Default()
	// Dial connects to a replica until ctx ends. Default: TCP from the
	// process's own network namespace.
	Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Parallel bounds the checks under way at the same moment, and with them
	// goroutines and file descriptors. Default 1024: that many replicas may
	// hang for a timeout before others wait.
	Parallel int
	// Signals are what the data plane saw of clients' own connections. Optional.
	Signals Signals
	// Prior are the replicas that an agent before this one found down. Optional.
	Prior []Failed
	// Rand spreads the checks over time: a number in [0, 1). Its calls never
	// overlap. Default math/rand/v2.
	Rand func() float64
}

// Checker checks the replicas of the state it was last given while Run runs.
// It is both the target and the source "health". Safe for concurrent use.
type Checker struct {
	cfg  Config
	wake chan struct{} // the loop of Run has something to do

	mu       sync.Mutex
	state    *model.State // last applied
	pass     uint64       // counts the states
	services map[model.ServiceName]*service
	unfit    map[model.ServiceName]*service // those that publish something
	rising   map[model.ServiceName]*service // those with replicas that start slowly
	queue    queue                          // checks that wait for their time
	busy     int                            // checks under way
	alarm    time.Time                      // when Run's loop wakes by itself; zero: it does not
	dirty    []*service
	stale    bool   // the published conditions hold some of a service that is gone
	news     []news // not logged yet
	strain   strain
	prior    priors // of checks that have not begun yet
	deaf     error  // why the signals could not be read the last time
	stats    Stats
}

// Stats counts since the start of the agent.
type Stats struct {
	Checks       uint64 // ended with a result
	Failures     uint64 // of these, those the replica failed
	Inconclusive uint64 // this host could not ask: no descriptors, ports or memory left
	Late         uint64 // began more than an interval after their time: Config.Parallel held them up
	Signals      uint64 // of replicas that do not take clients' connections
	LastResorts  uint64 // times a service entered the last resort
	Busy         int    // under way now
	Waiting      int    // waiting for their time now
}

// New makes a Checker with nothing to check.
func New(cfg Config) *Checker {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Dial == nil {
		cfg.Dial = dial
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 1024
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	return &Checker{
		cfg: cfg, wake: make(chan struct{}, 1),
		services: map[model.ServiceName]*service{}, unfit: map[model.ServiceName]*service{},
		rising: map[model.ServiceName]*service{}, prior: priorsOf(cfg.Prior),
	}
}

// Name is "health", as a target and as a source.
func (c *Checker) Name() string { return "health" }

// Serves tells that services' health field is made real.
func (c *Checker) Serves() []model.Feature { return []model.Feature{model.FeatureHealth} }

// dial connects without keep-alive: no check lives long enough to need it. It
// is not Dialer.DialTCP, which binds to a local port before it connects, also
// for a zero local address: a port is then taken for one destination only,
// and TIME_WAIT uses up all of the host's within seconds of 5 000 checks each.
func dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1}
	return d.DialContext(ctx, "tcp", to.String())
}

func (c *Checker) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
