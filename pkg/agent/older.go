// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/handover"
)

// olderName is that of a conversation with an older agent in a handover.
const olderName = "older agent"

// older knows the agents before this one whose connections have not all ended.
type older struct {
	mu     sync.Mutex
	agents []*olderAgent
}

type olderAgent struct {
	conn *handover.Conn
	last handover.Message
}

// add notes one, with what it said last.
func (o *older) add(c *handover.Conn, m handover.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.agents = append(o.agents, &olderAgent{c, m})
}

// adopt notes one that the predecessor knew. The file stays the caller's.
func (o *older) adopt(f *os.File) {
	if c, err := handover.Adopt(f); err == nil { // else it has ended
		o.add(c, handover.Message{})
	}
}

// watch listens to them until ctx ends. One at a time may.
func (o *older) watch(ctx context.Context, log *slog.Logger) {
	var wg sync.WaitGroup
	defer wg.Wait()
	o.mu.Lock()
	agents := slices.Clone(o.agents)
	o.mu.Unlock()
	for _, a := range agents {
		a.conn.Resume()
		wg.Go(func() {
			defer context.AfterFunc(ctx, a.conn.Interrupt)()
			for {
				m, files, err := a.conn.Receive(0)
				handover.CloseFiles(files)
				switch {
				case ctx.Err() != nil:
					return
				case err != nil:
					o.remove(a)
					log.Info("an agent before this one has ended", "pid", a.conn.Peer().PID)
					_ = a.conn.Close()
					return
				case m.Kind == handover.Draining:
					o.mu.Lock()
					a.last = m
					o.mu.Unlock()
				}
			}
		})
	}
}

func (o *older) remove(a *olderAgent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.agents = slices.DeleteFunc(o.agents, func(b *olderAgent) bool { return a == b })
}

// list is what the status shows of them.
func (o *older) list() []admin.OlderAgent {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []admin.OlderAgent
	for _, a := range o.agents {
		out = append(out, admin.OlderAgent{PID: a.conn.Peer().PID, Connections: a.last.Connections, Until: a.last.Until.UTC().Round(time.Second)})
	}
	return out
}

// stop tells them that there is less time.
func (o *older) stop(within time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.agents {
		_ = a.conn.Send(handover.Message{Kind: handover.Stop, Budget: within}, sayTime)
	}
}

// copies are the conversations, for a successor. Nobody watches them.
func (o *older) copies() (names []string, files []*os.File) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.agents[:min(len(o.agents), mostOlder)] {
		if f, err := a.conn.File(); err == nil {
			names, files = append(names, olderName), append(files, f)
		}
	}
	return names, files
}

// mostOlder bounds the conversations in one message, beside the locks and a memo.
const mostOlder = handover.MaxFiles - 3

// leave hangs up here: a successor goes on with the conversations.
func (o *older) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.agents {
		_ = a.conn.Close()
	}
	o.agents = nil
}
