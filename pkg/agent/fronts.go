// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/dnsserver"
	"github.com/fairlead-lb/fairlead/pkg/ingress"
	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/nexthop"
	"github.com/fairlead-lb/fairlead/pkg/standby"
	"github.com/fairlead-lb/fairlead/pkg/tcproute"
)

// fronts hold connections of clients, or answer them. They are made once in the life of the
// process: they go on while this agent gives way to another one, also when that
// comes to nothing, and afterwards until their connections have ended.
type fronts struct {
	asks  *asks
	http  *ingress.Target
	tcp   *tcproute.Router
	held  *standby.Target
	names *dnsserver.Target
}

// newFronts makes fronts that listen nowhere yet. They accept once begin is
// closed.
func newFronts(a *Agent) (*fronts, error) {
	f := &fronts{asks: newAsks()}
	log, ask := a.cfg.Log, f.asks
	wake := func(ctx context.Context, name model.ServiceName, who string) ([]model.Backend, error) {
		return ask.wake(ctx, name, "connection", who)
	}
	var err error
	f.held, err = standby.New(standby.Config{
		Log: log, Listen: ask.listen, Own: ask.own(nexthop.ForHolding), Joined: ask.joined, Sockets: a.sockets, Begin: a.begin,
		Enter: ask.enter, Replay: ask.replay,
	})
	if err != nil {
		return nil, err
	}
	f.tcp, err = tcproute.New(tcproute.Config{
		Log: log, Certificates: ask, Wake: wake, Joined: ask.joined, Sockets: a.sockets, Begin: a.begin,
		Why: func(name model.ServiceName) string { why, _ := ask.why(name); return why },
	})
	if err != nil {
		f.held.Close()
		return nil, err
	}
	f.http = ingress.New(ingress.Config{
		Log: log, Certificates: ask, Sockets: a.sockets, Begin: a.begin, Listening: ask.instead,
		Joined: ask.joined, Why: ask.why, Keys: ask.keys,
		Wake: func(ctx context.Context, name model.ServiceName, who string) error {
			_, err := ask.wake(ctx, name, "request", who)
			return err
		},
	})
	f.names = dnsserver.New(dnsserver.Config{Log: log, Own: ask.own(nexthop.ForNames), Take: a.sockets.Take, Keep: a.sockets.note})
	return f, nil
}

// learn returns how the HTTP front, which gets no states any more, is told of
// replicas that the successor has woken; last is the state it has.
func (f *fronts) learn(last *model.State) func(model.ServiceName, []model.Backend) {
	var mu sync.Mutex
	return func(name model.ServiceName, backends []model.Backend) {
		mu.Lock()
		defer mu.Unlock()
		next := *last
		next.Services = slices.Clone(last.Services)
		for i, svc := range next.Services {
			if svc.Name == name {
				woken := *svc
				woken.Backends, woken.Sleep = backends, model.Awake
				next.Services[i] = &woken
			}
		}
		last = &next
		_ = f.http.Apply(context.Background(), last) // what it could not serve before it cannot now
	}
}

// open counts the connections of clients.
func (f *fronts) open() int { return f.http.Open() + f.tcp.Open() + f.held.Open() }

// drain takes no more connections and returns when those there are have ended,
// or, with an error that counts them, when ctx has.
func (f *fronts) drain(ctx context.Context) error {
	var errs [3]error
	var wg sync.WaitGroup
	wg.Go(func() { errs[0] = f.http.Drain(ctx) })
	wg.Go(func() { errs[1] = f.tcp.Shutdown(ctx) })
	wg.Go(func() { errs[2] = f.held.Drain(ctx) })
	wg.Go(func() { _ = f.names.Close() })
	wg.Wait()
	return errors.Join(errs[:]...)
}

// hasten has a drain end within the time, idle connections earlier.
func (f *fronts) hasten(ctx context.Context, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_ = f.http.Shutdown(ctx) // drain tells
}

// close cuts what is left.
func (f *fronts) close() {
	f.http.Close()
	_ = f.tcp.Close()
	f.held.Close()
	_ = f.names.Close()
}
