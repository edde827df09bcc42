// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/handover"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Times of a takeover, as the one that comes sees them.
const (
	enterTime  = 15 * time.Second // for an agent that is just giving its place to another one
	givenTime  = 30 * time.Second // for the present agent to stop its work
	settleTime = 20 * time.Second // for everything to be applied
	failTime   = 4 * time.Second  // that a target may fail, which did not before
)

// predecessor is the agent whose place is taken.
type predecessor struct {
	conn     *handover.Conn
	troubled []string // targets that were not well there
}

// enter takes the locks: those of nobody, or, with Config.Takeover, those of the
// agent that runs. The place is not this agent's before settleIn says so.
func (a *Agent) enter(ctx context.Context) (*predecessor, error) {
	for end := time.Now().Add(enterTime); ; {
		lock, note, err := acquire(a.cfg.RunDir, a.name)
		held := (*HeldError)(nil)
		switch {
		case err == nil:
			if a.lock = lock; note != "" {
				a.cfg.Log.Warn(note)
			}
			return nil, nil
		case !errors.As(err, &held):
			return nil, err
		case !a.cfg.Takeover:
			return nil, fmt.Errorf("%w, or take its place without a gap, with --takeover", err)
		}
		if a.early == nil {
			// The longest part of a start, and one that may fail: before the other
			// agent has let go.
			if a.early, err = openObjects(a.cfg); err != nil {
				return nil, err
			}
		}
		from, err := a.takeOver(ctx)
		if err == nil {
			return from, nil
		}
		var refused *handover.RefusedError
		switch {
		case errors.As(err, &refused):
			return nil, fmt.Errorf("the agent that runs, pid %d, does not give its place: %w", held.PID, err)
		case ctx.Err() != nil, a.isStopping():
			return nil, errors.New("stopped before the place was taken")
		case time.Now().After(end) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
			return nil, fmt.Errorf("%w; it does not answer at %s: its version cannot hand over, or it runs with another --run", held, takeoverSocket(a.cfg.RunDir))
		case time.Now().After(end):
			return nil, fmt.Errorf("take the place of pid %d: %w", held.PID, err)
		}
		time.Sleep(50 * time.Millisecond) // it is starting, ending, or giving way to another one
	}
}

// takeOver asks the agent that runs for its place and receives what it gives.
func (a *Agent) takeOver(ctx context.Context) (_ *predecessor, err error) {
	c, err := handover.Dial(takeoverSocket(a.cfg.RunDir), time.Second)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	defer context.AfterFunc(ctx, c.Interrupt)()
	hello := handover.Message{Kind: handover.Hello, Program: a.cfg.Build.Version, StateDir: a.cfg.StateDir, NetNS: handover.NetNS()}
	if err := c.Send(hello, sayTime); err != nil {
		return nil, err
	}
	for {
		m, files, err := c.Receive(givenTime)
		if err != nil {
			return nil, err
		}
		switch m.Kind {
		case handover.Sockets:
			a.sockets.leave(m.Names, files)
			continue
		case handover.Yours:
			if err := a.adopt(m.Names, files); err != nil {
				refuse(c, err)
				return nil, err
			}
			a.cfg.Log.Info("taking the place of the agent that runs", "pid", c.Peer().PID)
			return &predecessor{conn: c, troubled: m.Troubled}, nil
		}
		handover.CloseFiles(files)
		return nil, fmt.Errorf("it said %q", m.Kind)
	}
}

// adopt takes the locks over, and the conversations with still older agents.
func (a *Agent) adopt(names []string, files []*os.File) (err error) {
	var file, name *os.File
	for i, f := range files {
		switch names[i] {
		case lockFileName:
			file = f
		case lockNameName:
			name = f
		case olderName:
			a.older.adopt(f)
			_ = f.Close()
		case failedName:
			if err := readMemo(f, &a.failed); err != nil {
				a.cfg.Log.Warn("which replicas are down is found out anew", "error", err)
			}
			_ = f.Close()
		default:
			_ = f.Close()
		}
	}
	if file == nil {
		if name != nil {
			_ = name.Close()
		}
		return errors.New("it gave no lock")
	}
	a.lock, err = adoptLock(a.cfg.RunDir, file, name)
	return err
}

// settleIn makes the place this agent's: at once where nobody had it, else when
// everything is applied and the predecessor has heard so. An error means that
// the predecessor goes on and this agent must end.
func (a *Agent) settleIn(ctx context.Context, from *predecessor) error {
	if from != nil {
		if err := a.succeed(ctx, from); err != nil {
			if ctx.Err() != nil {
				return nil // the end of the term has its own reason
			}
			return fmt.Errorf("the place was not taken: %w", err)
		}
	}
	if from == nil {
		a.tried(ctx)
	}
	if a.fronts != nil {
		a.fronts.asks.loaded()
	}
	select {
	case <-a.begin: // in an earlier term
	default:
		close(a.begin)
	}
	return nil
}

// firstTime bounds how long clients wait at the start of an agent, in place of
// being refused by a front that has not got its certificates yet.
const firstTime = 3 * time.Second

// tried waits until every target has tried to apply the first state.
func (a *Agent) tried(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstTime)
	defer cancel()
	s, err := a.engine.await(ctx, func(*model.State) bool { return true })
	for _, l := range a.engine.loops {
		if err == nil {
			err = l.Tried(ctx, s.Generation)
		}
	}
	if err == nil {
		_ = a.parts.loaded(ctx)
	}
}

// succeed tells the predecessor that this agent is ready, once it is.
func (a *Agent) succeed(ctx context.Context, from *predecessor) error {
	said := make(chan error, 1) // the predecessor's word, or its silence
	var first handover.Message
	from.conn.Resume()
	stop := context.AfterFunc(ctx, from.conn.Interrupt)
	defer stop()
	go func() {
		m, files, err := from.conn.Receive(0)
		handover.CloseFiles(files)
		first = m
		said <- err
	}()
	ready := make(chan error, 1)
	go func() { ready <- a.caughtUp(ctx, from.troubled) }()
	var err error
	select {
	case err = <-said:
		<-ready
		if err == nil {
			err = fmt.Errorf("it said %q too early", first.Kind)
		}
	case err = <-ready:
		if err != nil {
			refuse(from.conn, err)
			from.conn.Interrupt()
			<-said
			_ = from.conn.Close()
			return err
		}
		if err = from.conn.Send(handover.Message{Kind: handover.Ready}, sayTime); err != nil {
			from.conn.Interrupt()
		}
		if last := <-said; err == nil {
			err = last
		}
		if err == nil && first.Kind != handover.Draining {
			err = fmt.Errorf("it said %q", first.Kind)
		}
	}
	if err == nil {
		a.cfg.Log.Info("took the place of the agent before", "pid", from.conn.Peer().PID, "connections", first.Connections)
		a.older.add(from.conn, first)
		return nil
	}
	defer from.conn.Close()
	var refused *handover.RefusedError
	if ctx.Err() == nil && !errors.As(err, &refused) && from.conn.Peer().Ended(leaveTime) {
		a.cfg.Log.Warn("the agent before has ended while it gave its place", "pid", from.conn.Peer().PID)
		return nil
	}
	return err
}

// caughtUp waits until every target has applied the newest state; those that
// could not before either have tried to.
func (a *Agent) caughtUp(ctx context.Context, troubled []string) error {
	wait, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	begun := time.Now()
	go a.despair(wait, cancel, troubled)
	for {
		s, err := a.engine.await(wait, func(*model.State) bool { return true })
		for i, l := range a.engine.loops {
			if err != nil {
				break
			}
			if slices.Contains(troubled, a.engine.targets[i].Name()) {
				err = l.Tried(wait, s.Generation)
			} else {
				err = l.Wait(wait, s.Generation)
			}
		}
		if err == nil {
			err = a.parts.loaded(wait)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			now := a.progress()
			return fmt.Errorf("not ready after %s: %s", time.Since(begun).Round(time.Second), strings.Join(now.Behind(), "; "))
		case a.engine.state() == s:
			return nil
		}
	}
}

// despair ends the wait for a target that goes on failing.
func (a *Agent) despair(ctx context.Context, end func(), troubled []string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
		for i, l := range a.engine.loops {
			s := l.Status()
			if s.Error != "" && time.Since(s.Since) > failTime && !slices.Contains(troubled, a.engine.targets[i].Name()) {
				end()
				return
			}
		}
	}
}
