// SPDX-License-Identifier: Apache-2.0

package autocert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/autocert/dns01"
)

// keeper keeps the certificate of one name, which may be a wildcard, in one
// goroutine, from one authority. A change of authority is a new keeper.
type keeper struct {
	t         *Target
	authority *authority
	host      string
	ctx       context.Context
	stop      context.CancelFunc

	cert   atomic.Pointer[leaf] // that is served; nil: none yet
	looked chan struct{}        // closed once what is stored is served
	once   sync.Once

	// Of the goroutine.
	advice   advice
	ordered  time.Time // when the last order here succeeded
	planned  time.Time // when the certificate that is served is to be renewed
	failures int       // since the last success

	mu       sync.Mutex
	awaiting string // what goes on, in words; empty: nothing
	err      error  // of the last try
	next     time.Time
}

// newKeeper makes a keeper that run starts; old, if it is not nil, is served
// until there is a better one.
func newKeeper(t *Target, a *authority, host string, old *leaf) *keeper {
	k := &keeper{t: t, authority: a, host: host, awaiting: "its turn", looked: make(chan struct{})}
	k.ctx, k.stop = context.WithCancel(t.ctx)
	k.cert.Store(old)
	return k
}

// run works until the name is withdrawn or the target closed.
func (k *keeper) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-timer.C:
		}
		next, err := k.tend()
		if k.ctx.Err() != nil {
			return
		}
		timer.Reset(k.settle(next, err))
	}
}

// settle notes how a look ended and says how long to wait for the next one.
func (k *keeper) settle(next time.Time, err error) time.Duration {
	if err != nil {
		next = time.Now().Add(k.backoff(err))
		k.failures++
		k.planned = next
	} else {
		k.failures = 0
	}
	k.mu.Lock()
	was := k.err
	k.awaiting, k.err, k.next = "", err, k.planned
	k.mu.Unlock()
	switch {
	case err != nil:
		k.t.cfg.Log.Warn("no certificate", "host", k.host, "error", explain(err), "failures", k.failures, "nextTry", next.UTC().Round(time.Second))
	case was != nil:
		k.t.cfg.Log.Info("certificate healed", "host", k.host)
	}
	return max(time.Until(next), 100*time.Millisecond)
}

// backoffs are the waits after each failure, in units of RetryMin: with its
// default of 15 s they are 15 s, 2 min, 10 min, 30 min, 1 h and so on, doubled.
var backoffs = []time.Duration{1, 8, 40, 120, 240}

// backoff is the wait after another failure, with a tenth of it left to
// chance so that names that failed together are not tried together.
func (k *keeper) backoff(err error) time.Duration {
	wait := backoffs[min(k.failures, len(backoffs)-1)] * k.t.cfg.RetryMin
	for i := len(backoffs); i <= k.failures && wait < k.t.cfg.RetryMax; i++ {
		wait *= 2
	}
	wait = min(wait, k.t.cfg.RetryMax)
	wait += rand.N(wait/10 + 1)
	return max(wait, limited(err, time.Now()))
}

// tend looks after the certificate once and says when to look again.
func (k *keeper) tend() (time.Time, error) {
	c, err := k.authority.load(k.ctx, k.host)
	if err == nil && c != nil {
		k.hold(c)
	}
	k.once.Do(func() { close(k.looked) })
	switch {
	case errors.Is(err, errUnusable):
		k.t.cfg.Log.Error("stored certificate is thrown away", "host", k.host, "error", err)
		if err := k.authority.discard(k.ctx, k.host); err != nil {
			return time.Time{}, fmt.Errorf("remove unusable certificate: %w", err)
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return time.Time{}, err
	}
	if c == nil {
		return k.order(func(ctx context.Context) (*leaf, error) { return k.authority.obtain(ctx, k.host) })
	}
	k.await("")
	k.consult(c)
	if look := k.plan(c); time.Now().Before(k.planned) {
		return look, nil
	}
	// The first try says what it replaces, which frees it from limits; every
	// other one after it does not, in case that is what was refused.
	return k.order(func(ctx context.Context) (*leaf, error) {
		return k.authority.renew(ctx, k.host, c, k.failures%2 == 1)
	})
}

// order makes one order when it is this name's turn.
func (k *keeper) order(make func(context.Context) (*leaf, error)) (time.Time, error) {
	k.await("its turn: other orders are under way")
	select {
	case k.t.slots <- struct{}{}:
		defer func() { <-k.t.slots }()
	case <-k.ctx.Done():
		return time.Time{}, k.ctx.Err()
	}
	k.await("the authority's challenge, on port 80 or 443")
	ctx := dns01.WithProgress(k.ctx, k.await)
	c, err := make(ctx)
	if err != nil {
		return time.Time{}, err
	}
	if time.Now().After(c.x509().NotAfter) {
		return time.Time{}, fmt.Errorf("the new certificate ended at %s: the clock of this machine or of the authority is wrong", c.x509().NotAfter)
	}
	k.ordered = time.Now()
	k.await("")
	k.hold(c)
	k.t.cfg.Log.Info("certificate obtained", "host", k.host, "issuer", c.x509().Issuer.CommonName, "notAfter", c.x509().NotAfter)
	k.consult(c)
	return k.plan(c), nil
}

// hold serves a certificate from now on.
func (k *keeper) hold(c *leaf) {
	if c.same(k.cert.Load()) {
		return
	}
	k.advice = advice{}
	k.cert.Store(c)
}

// consult asks the authority when to renew, if that is due. Without an answer
// the certificate's own dates decide.
func (k *keeper) consult(c *leaf) {
	if time.Now().Before(k.advice.again) {
		return
	}
	a, err := k.authority.advise(k.ctx, c)
	if err != nil {
		k.t.cfg.Log.Debug("no advice on when to renew", "host", k.host, "error", err)
		k.advice.again = time.Now().Add(ariUsual)
		return
	}
	k.advice = a
}

// renewal is when a certificate is to be renewed: when the authority says,
// else when a third of its life is left; never in the last twentieth only, and
// not sooner after the last order than an hour or a third of its life.
func (k *keeper) renewal(c *leaf) time.Time {
	from, to := c.x509().NotBefore, c.x509().NotAfter
	life := to.Sub(from)
	at := to.Add(-life / 3)
	if !k.advice.at.IsZero() {
		at = earlier(k.advice.at, to.Add(-life/20))
	}
	if k.ordered.IsZero() {
		return at
	}
	if soonest := k.ordered.Add(min(time.Hour, life/3)); soonest.After(at) {
		return soonest
	}
	return at
}

// plan notes when to renew a certificate and says when to look at it again.
func (k *keeper) plan(c *leaf) time.Time {
	k.planned = k.renewal(c)
	return earlier(k.planned, k.advice.again)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (k *keeper) await(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.awaiting = what
}
