// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Phases of a service that may sleep.
type stage string

const (
	asleep stage = "asleep" // nothing runs
	waking stage = "waking" // something starts
	awake  stage = "awake"  // a replica was ready
	dozing stage = "dozing" // new connections are held, those before it end; then it is asleep
)

// Times of the way to sleep and back.
const (
	// settleTime is how long after the last new connection to a replica could
	// have been let through its handshake is looked for.
	settleTime = 200 * time.Millisecond
	// dozeTime bounds the wait for the data plane to hold new connections.
	dozeTime = 5 * time.Second
	// lookMin and lookMax bound the time between two looks at a service in use.
	lookMin = 100 * time.Millisecond
	lookMax = 5 * time.Second
	// A start that failed is not tried again for a moment, doubled each time.
	failMin = time.Second
	failMax = 30 * time.Second
	// maxFalls is how often a replica may end before it is ready.
	maxFalls = 3
)

// Meter is a Runner that can tell whether its replicas are in use. Services of
// others never fall asleep.
type Meter interface {
	// Connections counts those that are open to the service's replicas, also
	// those whose handshake goes on.
	Connections(model.ServiceName) (int, error)
}

// Scaler is a Runner that can be told of one service alone.
type Scaler interface {
	// Scale sets how many replicas run; false: Apply has not told of it. idle is
	// Spec.Idle.
	Scale(name model.ServiceName, replicas int, idle bool) bool
}

// sleeper is a service that may sleep.
type sleeper struct {
	name   model.ServiceName
	scale  model.Scale
	driver string // empty: known of an earlier agent only, until the first Apply
	stage  stage
	since  time.Time // of the stage
	cause  string    // why it is awake, or asleep
	kind   string    // of what woke it
	ready  []model.Backend
	// heralded is the replica of ready that its Runner does not list as such yet.
	heralded string
	asking   bool // waking, and its Runner has not been told yet

	readyAt  time.Time // of the last wake, until somebody who waited was joined
	waiting  int
	changed  chan struct{} // closed when waiters should look; nil: nobody waits
	deadline time.Time     // of waking; while queued, of the next look
	queued   bool          // waking, and its replicas wait for their turn to start
	begun    time.Time     // waking: when that was over; zero: there was no such wait
	falls    int           // replicas that ended while waking
	restarts map[string]int

	down    *downtime // why no replica runs although one should; nil: one does
	failure error     // of the last start
	pause   time.Duration
	barred  time.Time // no start before it

	busy    time.Time // last seen in use
	opened  uint64    // connections the data plane had counted then
	look    time.Time // when to look again
	settled time.Time // dozing: when new connections were known to be held
	nap     uint64    // how many times it has begun to doze
	note    string    // why it does not fall asleep
	calm    int       // sockets its replicas had when nobody was connected; 0: unknown
}

// sleepers is what an Activator knows of services that may sleep.
type sleepers struct {
	mu      sync.Mutex
	by      map[model.ServiceName]*sleeper
	stopped map[model.ServiceName]time.Time // by the owner's wish
	turn    uint64                          // grows whenever a service falls asleep or begins to wake
	kick    chan struct{}                   // asks doze for another look
	dirty   chan struct{}                   // asks for the SleepFile to be written
	news    bool                            // a service is awake that observe has not told of
	stats   map[outcome]uint64
	took    map[phaseOf]*Duration
	sizes   map[model.ServiceName]*size // of services that may have more replicas or fewer
}

// maySleep tells whether connections and datagrams can wake a service.
func maySleep(svc *model.Service) bool {
	w := svc.Workload
	return w != nil && w.Scale.Min == 0 && w.Scale.Max > 0 && !w.Scale.Paused
}

// learn takes over the services of a state.
func (s *sleepers) learn(st *model.State, drivers map[string]bool, now time.Time, running map[model.ServiceName]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learnSizes(st, drivers, now, running)
	there := map[model.ServiceName]bool{}
	for _, svc := range st.Services {
		if !maySleep(svc) || !drivers[svc.Workload.Driver] {
			continue
		}
		there[svc.Name] = true
		x := s.by[svc.Name]
		if x == nil {
			x = &sleeper{name: svc.Name, stage: asleep, since: now, cause: "nobody has used it yet"}
			if running[svc.Name] > 0 {
				x.stage, x.cause, x.busy = awake, "it ran before it was allowed to sleep", now
			}
			s.by[svc.Name] = x
		} else if x.driver == "" && x.stage == asleep && running[svc.Name] > 0 {
			x.stage, x.since, x.cause, x.busy = awake, now, "it ran when this agent started", now
		}
		x.scale, x.driver = svc.Workload.Scale, svc.Workload.Driver
	}
	for name, x := range s.by {
		if !there[name] {
			x.signal()
			s.forget(name)
			delete(s.by, name)
		}
	}
}

// replicas is how many shall run of a service that asks for n; idle: none, as
// nobody uses it.
func (s *sleepers) replicas(name model.ServiceName, n int) (want int, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.stopped[name]; ok {
		return 0, false
	}
	if x := s.by[name]; x != nil && x.stage == asleep {
		return 0, true
	}
	if z := s.sizes[name]; z != nil && n > 0 {
		return z.want, false
	}
	return n, false
}

// signal has those that wait look.
func (x *sleeper) signal() {
	if x.changed != nil {
		close(x.changed)
		x.changed = nil
	}
}

// change is closed when those that wait should look.
func (x *sleeper) change() <-chan struct{} {
	if x.changed == nil {
		x.changed = make(chan struct{})
	}
	return x.changed
}

// doze has new connections held, while it stays in the reach of those there are.
func (x *sleeper) doze(now time.Time) {
	x.settled = time.Time{}
	x.nap++
	x.stage, x.since = dozing, now // x.cause: why it was awake
}

func (s *sleepers) enter(x *sleeper, to stage, cause string, now time.Time) {
	s.turn++
	x.stage, x.since, x.cause = to, now, cause
	if to == asleep {
		x.ready, x.heralded, x.asking = nil, "", false
		if z := s.sizes[x.name]; z != nil { // the next one who comes begins with the least
			z.want, z.spare, z.look = floor(z.scale), time.Time{}, time.Time{}
		}
	}
	x.signal()
}

// fell ends a start that failed.
func (s *sleepers) fell(x *sleeper, why error, now time.Time) {
	x.failure = why
	x.pause = min(max(2*x.pause, failMin), failMax)
	x.barred = now.Add(x.pause)
	s.enter(x, asleep, "its last start failed: "+why.Error(), now)
}

func (s *sleepers) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
