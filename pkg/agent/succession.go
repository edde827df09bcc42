// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/handover"
)

// Times of a handover, as the one that gives way sees them.
const (
	sayTime   = 5 * time.Second // for one message
	readyTime = time.Minute     // from the locks until the successor is ready
	leaveTime = 5 * time.Second // for a successor that failed to end; then it is killed
	mostNames = handover.MaxFiles
)

// successor is another agent that asks for this one's place, and what it gets.
type successor struct {
	conn     *handover.Conn
	version  string
	names    []string
	files    []*os.File
	troubled []string
}

// receive waits for an agent that asks for the place, until ctx ends or one has
// asked.
func (a *Agent) receive(ctx context.Context) {
	l, err := handover.Listen(takeoverSocket(a.cfg.RunDir))
	if err != nil {
		a.cfg.Log.Warn("no other agent can take this one's place", "error", err)
		return
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	defer l.Close()
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			a.cfg.Log.Warn("an agent asked for this one's place", "error", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors, which passes
			continue
		}
		next, err := a.examine(ctx, c)
		if err == nil {
			select {
			case a.successors <- next:
				return
			case <-ctx.Done():
				err = errors.New("the agent ends")
			}
		}
		a.cfg.Log.Warn("an agent asked for this one's place and was refused", "pid", c.Peer().PID, "error", err)
		refuse(c, err)
		_ = c.Close()
	}
}

// examine reads who asks.
func (a *Agent) examine(ctx context.Context, c *handover.Conn) (*successor, error) {
	defer context.AfterFunc(ctx, c.Interrupt)()
	m, files, err := c.Receive(sayTime)
	if err != nil {
		return nil, err
	}
	handover.CloseFiles(files)
	switch here := handover.NetNS(); {
	case m.Kind != handover.Hello:
		return nil, fmt.Errorf("it began with %q, want %q", m.Kind, handover.Hello)
	case m.NetNS != here:
		return nil, fmt.Errorf("it runs in network namespace %s, this agent in %s: start it there", m.NetNS, here)
	case m.StateDir != a.cfg.StateDir:
		return nil, fmt.Errorf("its state directory is %s, this agent's %s: start it with --state %[2]s", m.StateDir, a.cfg.StateDir)
	}
	return &successor{conn: c, version: m.Program}, nil
}

// refuse tells the other side why, if it listens.
func refuse(c *handover.Conn, why error) {
	_ = c.Send(handover.Message{Kind: handover.Refuse, Reason: why.Error()}, sayTime)
}

// prepare notes what the successor gets, at the end of a term.
func (a *Agent) prepare(next *successor) {
	if a.fronts != nil {
		a.fronts.asks.pause()
	}
	next.names, next.files = a.sockets.copies()
	a.failed = a.parts.health.Failed()
	s := a.progress()
	for _, t := range s.Targets {
		if t.Error != "" || t.Generation < s.Config.Generation {
			next.troubled = append(next.troubled, t.Target)
		}
	}
}

// giveWay hands the place to the successor and tells whether it took it. If it
// did not, it has ended, and nothing but this agent's next term is needed.
func (a *Agent) giveWay(ctx context.Context, next *successor) (gone bool) {
	pid := next.conn.Peer().PID
	a.cfg.Log.Info("handing over", "to", pid, "version", next.version, "sockets", len(next.names))
	begun := time.Now()
	err := a.offer(ctx, next)
	if err == nil {
		handover.CloseFiles(next.files)
		a.cfg.Log.Info("handed over", "to", pid, "took", time.Since(begun))
		return true
	}
	refuse(next.conn, err)
	peer := next.conn.Peer()
	a.cfg.Log.Error("the successor did not take the place: this agent goes on", "pid", pid, "error", err)
	a.taken.failed(pid, err)
	next.conn.Interrupt()
	if !peer.Ended(leaveTime) {
		a.cfg.Log.Error("the successor does not end: it is killed", "pid", pid, "error", peer.Kill())
		peer.Ended(leaveTime)
	}
	_ = next.conn.Close()
	if err := a.lock.mine(); err != nil {
		a.cfg.Log.Error("take the lock back", "error", err)
	}
	a.sockets.leave(next.names, next.files)
	return false
}

// offer gives the successor all there is and waits until it is ready.
func (a *Agent) offer(ctx context.Context, next *successor) error {
	next.conn.Resume() // whatever the end of the term it came in said
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-ctx.Done():
		case <-a.stopping:
		case <-stop:
			return
		}
		next.conn.Interrupt()
	}()
	for at := 0; at < len(next.names); at += mostNames {
		end := min(at+mostNames, len(next.names))
		if err := next.conn.Send(handover.Message{Kind: handover.Sockets, Names: next.names[at:end]}, sayTime, next.files[at:end]...); err != nil {
			return err
		}
	}
	names, files, err := a.lock.copies()
	if err != nil {
		return err
	}
	olderNames, olderFiles := a.older.copies()
	names, files = append(names, olderNames...), append(files, olderFiles...)
	if f, err := memo(a.failed); err != nil {
		a.cfg.Log.Warn("the successor is not told which replicas are down", "error", err)
	} else {
		names, files = append(names, failedName), append(files, f)
	}
	err = next.conn.Send(handover.Message{Kind: handover.Yours, Names: names, Troubled: next.troubled}, sayTime, files...)
	handover.CloseFiles(files)
	if err != nil {
		return err
	}
	m, more, err := next.conn.Receive(readyTime)
	handover.CloseFiles(more)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && (ctx.Err() != nil || a.isStopping()):
		return errors.New("this agent was told to stop")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("it was not ready after %s", readyTime)
	case err != nil:
		return err
	case m.Kind != handover.Ready:
		return fmt.Errorf("it said %q, want %q", m.Kind, handover.Ready)
	}
	return a.report(next.conn, time.Now().Add(a.cfg.Drain))
}

func (a *Agent) isStopping() bool {
	select {
	case <-a.stopping:
		return true
	default:
		return false
	}
}

// report tells the successor what is still open here.
func (a *Agent) report(c *handover.Conn, until time.Time) error {
	n := 0
	if a.fronts != nil {
		n = a.fronts.open()
	}
	return c.Send(handover.Message{Kind: handover.Draining, Connections: n, Until: until}, sayTime)
}

// recede ends the connections that are left, now that the place is the
// successor's: they have the time of Config.Drain, after Stop or at the
// successor's word less, and none when ctx ends.
func (a *Agent) recede(ctx context.Context, next *successor) error {
	defer next.conn.Close()
	a.sockets.successor(next.conn.Peer().PID)
	a.lock.release()
	a.older.leave()
	if a.cfg.Superseded != nil {
		a.cfg.Superseded()
	}
	if a.fronts == nil {
		return nil
	}
	a.fronts.asks.moved(a.cfg.RunDir, a.fronts.learn(a.engine.state()))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	until := time.Now().Add(a.cfg.Drain)
	end := time.AfterFunc(a.cfg.Drain, cancel)
	defer end.Stop()
	drained := make(chan error, 1)
	go func() { drained <- a.fronts.drain(ctx) }()
	told := a.orders(next.conn)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	stopping := a.stopping
	hasten := func(within time.Duration) {
		if sooner := time.Now().Add(within); sooner.Before(until) {
			until = sooner
			end.Reset(within)
			go a.fronts.hasten(ctx, within)
		}
	}
	for {
		select {
		case err := <-drained:
			if err != nil {
				a.cfg.Log.Warn("connections of clients were cut off at the end of their time", "error", err)
			}
			a.cfg.Log.Info("the agent before the present one ends", "successor", next.conn.Peer().PID)
			next.conn.Interrupt()
			return nil
		case within, ok := <-told:
			if told != nil && !ok {
				told = nil // the successor has ended: the rest goes on as it was
				continue
			}
			hasten(within)
		case <-stopping:
			stopping = nil
			hasten(a.cfg.Budget / 2)
		case <-tick.C:
			if told != nil {
				_ = a.report(next.conn, until)
			}
		}
	}
}

// orders are the successor's words that there is less time; closed when it has
// hung up.
func (a *Agent) orders(c *handover.Conn) <-chan time.Duration {
	out := make(chan time.Duration, 1)
	c.Resume()
	go func() {
		defer close(out)
		for {
			m, files, err := c.Receive(0)
			handover.CloseFiles(files)
			if err != nil {
				return
			}
			if m.Kind == handover.Stop && m.Budget > 0 {
				select {
				case out <- m.Budget:
				default:
				}
			}
		}
	}()
	return out
}
