// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Place is a connection's place among all that wait for a service, at whatever
// front. Whoever has one leaves it.
type Place interface {
	// Wait returns the service's replicas once one is ready, or why none will be.
	Wait(context.Context) ([]model.Backend, error)
	Leave()
}

// held is a connection that waits.
type held struct {
	*conn.Conn
	port  uint16 // container port
	place Place
	since time.Time
}

// lines are the connections that wait, in the order they came, by service. A
// line is served by a goroutine of its own: the service that comes first is the
// one that wakes first, and no stuck one is in another's way. What all lines
// hold together is bounded; when that is full, a service with a longer line than
// the newcomer's gives up its last.
type lines struct {
	most  int
	serve func(model.ServiceName) // in a goroutine, for a line's first connection

	mu    sync.Mutex
	by    map[model.ServiceName][]held
	total int
	wg    sync.WaitGroup
}

// add takes a connection, or tells which one must be refused: it, or one that
// came last in the longest line.
func (l *lines) add(name model.ServiceName, h held) (refused *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.most {
		longest := name
		for other, line := range l.by {
			if len(line) > len(l.by[longest]) {
				longest = other
			}
		}
		line := l.by[longest]
		if len(line) < len(l.by[name])+2 { // else the newcomer would be the next to go
			return &h
		}
		last := line[len(line)-1]
		l.by[longest] = line[:len(line)-1]
		l.total--
		refused = &last
	}
	line, served := l.by[name]
	l.by[name] = append(line, h)
	l.total++
	if !served {
		l.wg.Go(func() { l.serve(name) })
	}
	return refused
}

// first is the connection whose turn it is; false: the line is over.
func (l *lines) first(name model.ServiceName) (held, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.by[name]
	if len(line) == 0 {
		delete(l.by, name)
		return held{}, false
	}
	return line[0], true
}

// next takes the first connection out of its line.
func (l *lines) next(name model.ServiceName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.by[name]
	if len(line) == 0 {
		return
	}
	line[0] = held{}
	l.by[name] = line[1:]
	l.total--
}

// each calls f for every connection that waits.
func (l *lines) each(f func(model.ServiceName, held)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, line := range l.by {
		for _, h := range line {
			f(name, h)
		}
	}
}

// waiting is how many there are.
func (l *lines) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}
