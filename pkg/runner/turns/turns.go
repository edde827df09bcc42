// SPDX-License-Identifier: Apache-2.0

// Package turns bounds how many replicas start at once, so that each gets the
// processor's time that it needs, and lets services take turns. It starts
// nothing.
package turns

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// ErrStopped is returned to one that is not to start any more.
var ErrStopped = errors.New("it is not to start any more")

// Turns is a number of turns. Create it with New.
type Turns struct {
	mu      sync.Mutex
	free    int
	waiting map[model.ServiceName][]chan struct{} // in the order they came; closed: it has a turn
	ring    []model.ServiceName                   // those of waiting, the next one first
}

// New makes n turns.
func New(n int) *Turns {
	return &Turns{free: n, waiting: map[model.ServiceName][]chan struct{}{}}
}

// Take waits for a turn, which lasts until it is released; release may be called
// more than once. Before a wait queued is called. An error tells that ctx or stop
// ended the wait.
func (t *Turns) Take(ctx context.Context, stop <-chan struct{}, name model.ServiceName, queued func()) (release func(), err error) {
	mine, ok := t.enter(name)
	if !ok {
		queued()
		select {
		case <-mine:
		case <-stop:
			err = ErrStopped
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		t.leave(name, mine)
		return nil, err
	}
	return sync.OnceFunc(t.release), nil
}

// Wanted tells whether somebody waits for a turn.
func (t *Turns) Wanted() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.ring) > 0
}

// enter takes a turn if there is one, else a place.
func (t *Turns) enter(name model.ServiceName) (place chan struct{}, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free > 0 {
		t.free--
		return nil, true
	}
	place = make(chan struct{})
	if len(t.waiting[name]) == 0 {
		t.ring = append(t.ring, name)
	}
	t.waiting[name] = append(t.waiting[name], place)
	return place, false
}

// leave gives a place up, or the turn that it got at this moment.
func (t *Turns) leave(name model.ServiceName, place chan struct{}) {
	t.mu.Lock()
	i := slices.Index(t.waiting[name], place)
	if i >= 0 {
		t.waiting[name] = slices.Delete(t.waiting[name], i, i+1)
		if len(t.waiting[name]) == 0 {
			delete(t.waiting, name)
			t.ring = slices.DeleteFunc(t.ring, func(other model.ServiceName) bool { return other == name })
		}
	}
	t.mu.Unlock()
	if i < 0 {
		t.release()
	}
}

// release gives a turn to the next service's first, which then is the last
// service to have another one.
func (t *Turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.ring) == 0 {
		t.free++
		return
	}
	name := t.ring[0]
	t.ring = t.ring[1:]
	line := t.waiting[name]
	close(line[0])
	if len(line) == 1 {
		delete(t.waiting, name)
		return
	}
	t.waiting[name] = line[1:]
	t.ring = append(t.ring, name)
}
