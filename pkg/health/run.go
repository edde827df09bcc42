// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

const (
	// slack is the least time between two wake-ups for due checks: thousands
	// of checks then share one.
	slack = 5 * time.Millisecond
	// settle is the least time between two published Parts: a rack that dies
	// is a few new states, not thousands.
	settle = 50 * time.Millisecond
)

// Run checks, and publishes the replicas that are down, until ctx ends; then
// checks under way are cut short. It publishes at once what is known, which is
// Config.Prior at the start of the agent: a replica is never taken out because it
// has not been checked yet. Without checks it sleeps.
func (c *Checker) Run(ctx context.Context, publish func(source.Part)) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	if c.cfg.Signals != nil {
		workers.Go(func() { c.listen(ctx) })
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var published time.Time
	for first := true; ; first = false {
		now := time.Now()
		c.launch(ctx, &workers, now)
		if first || now.Sub(published) >= settle {
			part, news, changed := c.part(first)
			for _, n := range news {
				n.log(c.cfg.Log)
			}
			if changed {
				publish(part)
				published = now
			}
		}
		if at := c.sleep(now.Add(slack), published.Add(settle)); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// launch starts workers for the checks that are due.
func (c *Checker) launch(ctx context.Context, workers *sync.WaitGroup, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.busy < c.cfg.Parallel {
		k := c.next(ctx, now)
		if k == nil {
			return
		}
		c.busy++
		workers.Go(func() { c.work(ctx, k) })
	}
}

// next takes a check that is due from the queue; nil: none is.
func (c *Checker) next(ctx context.Context, now time.Time) *check {
	if len(c.queue) == 0 || c.queue[0].due.After(now) {
		return nil
	}
	k := c.queue.take()
	if now.Sub(k.due) > k.ask.Interval {
		c.stats.Late++
	}
	k.begun = now
	k.ctx, k.cancel = context.WithTimeout(ctx, k.ask.Timeout)
	return k
}

// work checks until nothing is due. Workers begin and end with the work, so
// idle ones cost nothing and a burst finds as many as it may have.
func (c *Checker) work(ctx context.Context, k *check) {
	for k != nil {
		err := c.probe(k.ctx, k.to, k.ask)
		k = c.finish(ctx, k, err)
	}
}

// finish records the result of a check and returns the next one that is due.
func (c *Checker) finish(ctx context.Context, k *check, err error) *check {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	k.cancel()
	k.ctx, k.cancel = nil, nil
	switch {
	case k.gone:
	case ctx.Err() != nil:
		k.due = now
		c.queue.add(k)
	default:
		c.record(k, err, now)
		c.queue.add(k)
	}
	if ctx.Err() == nil {
		if next := c.next(ctx, now); next != nil {
			return next
		}
	}
	c.busy--
	if len(c.queue) > 0 && (c.alarm.IsZero() || later(c.queue[0].due, now.Add(slack)).Before(c.alarm)) {
		c.notify()
	}
	return nil
}

// sleep tells when the loop must wake by itself: for the next due check, not
// before checks, and for what must be published or logged, not before parts. Zero: never.
// While all workers are busy they take what is due, and the last one to find
// nothing wakes the loop.
func (c *Checker) sleep(checks, parts time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm = time.Time{}
	if len(c.queue) > 0 && c.busy < c.cfg.Parallel {
		c.alarm = later(c.queue[0].due, checks)
	}
	if len(c.dirty) > 0 || c.stale || len(c.news) > 0 {
		c.alarm = sooner(c.alarm, parts)
	}
	for _, svc := range c.rising {
		c.alarm = sooner(c.alarm, later(svc.ramp.next, parts))
	}
	return c.alarm
}

// record counts a result and sets the time of the next check.
func (c *Checker) record(k *check, err error, now time.Time) {
	if err != nil && isLocal(err) {
		c.strained(err, now)
	} else {
		c.stats.Checks++
		if err != nil {
			c.stats.Failures++
			k.err = err
		}
		if before := k.since; k.observe(err == nil, k.ask.Rise, k.ask.Fall, now) {
			c.suspect(k.svc)
			c.tell(k, now.Sub(before))
		}
		if k.up && k.ok {
			k.err = nil
		}
	}
	switch {
	case !k.known:
		k.due = later(now, k.begun.Add(k.ask.pace()))
	case k.rushed: // from here on the checks are spread evenly
		k.rushed = false
		k.due = now.Add(time.Duration(c.cfg.Rand() * float64(k.ask.Interval)))
	default:
		k.due = later(now, k.due.Add(k.ask.Interval))
	}
}

// part judges what changed and joins it with the rest. News is for the log.
func (c *Checker) part(force bool) (p source.Part, told []news, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, c.stale = c.stale || force, false
	now := time.Now()
	for _, svc := range c.rising {
		if !svc.ramp.next.After(now) {
			c.mark(svc)
		}
	}
	for _, svc := range c.dirty {
		svc.dirty = false
		if c.services[svc.model.Name] != svc {
			continue
		}
		before := svc.lastResort
		changed = svc.judge() || changed
		changed = svc.rise(now) || changed
		c.tellLastResort(svc, before)
		if svc.ramp.next.IsZero() {
			delete(c.rising, svc.model.Name)
		} else {
			c.rising[svc.model.Name] = svc
		}
		if len(svc.down)+len(svc.ramp.shares) > 0 {
			c.unfit[svc.model.Name] = svc
		} else {
			delete(c.unfit, svc.model.Name)
		}
	}
	clear(c.dirty)
	c.dirty = c.dirty[:0]
	told, c.news = c.news, nil
	if !changed {
		return p, told, false
	}
	for _, name := range slices.SortedFunc(maps.Keys(c.unfit), compare) {
		svc := c.unfit[name]
		p.Conditions = append(append(p.Conditions, svc.down...), svc.ramp.shares...)
	}
	if c.state == nil {
		p.Conditions = c.prior.conditions()
	}
	return p, told, true
}

func compare(a, b model.ServiceName) int {
	return cmp.Or(cmp.Compare(a.Project, b.Project), cmp.Compare(a.User, b.User))
}

// sooner is the earlier one; a may be zero, which is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
