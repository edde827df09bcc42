// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
)

// succession is what is known of successors that came, or were started here.
type succession struct {
	mu   sync.Mutex
	last *admin.Upgrade
}

// failed notes why one did not take the place. Its first reason stays.
func (s *succession) failed(pid int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && s.last.PID == pid && s.last.Error != "" {
		return
	}
	s.last = &admin.Upgrade{PID: pid, Error: err.Error(), Time: time.Now().UTC().Round(time.Millisecond)}
}

// list is what the status shows of it.
func (s *succession) list() *admin.Upgrade {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// upgrade starts a successor. Its answer comes before the place is handed over:
// who asks learns the end from the status, which is then the successor's.
func (a *Agent) upgrade() (admin.Upgrade, error) {
	if a.cfg.Successor == nil {
		return admin.Upgrade{}, &admin.Refusal{Code: http.StatusConflict, Err: errors.New("this agent starts no successor: start one with \"fairlead run --takeover\"")}
	}
	var env []string
	if a.sockets.notify != "" {
		env = append(env, "NOTIFY_SOCKET="+a.sockets.notify)
	}
	cmd, err := a.cfg.Successor(env)
	if err != nil {
		return admin.Upgrade{}, fmt.Errorf("start a successor: %w", err)
	}
	up := &admin.Upgrade{PID: cmd.Process.Pid, Time: time.Now().UTC().Round(time.Millisecond)}
	a.taken.mu.Lock()
	a.taken.last = up
	a.taken.mu.Unlock()
	a.cfg.Log.Info("successor started", "pid", up.PID, "program", cmd.Path)
	go func() { // for as long as it lives: no child of this process may stay a zombie
		_ = cmd.Wait()
		a.taken.failed(up.PID, fmt.Errorf("it ended with %s: see its log", cmd.ProcessState))
	}()
	return *up, nil
}
