// SPDX-License-Identifier: Apache-2.0

package turns

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start takes a turn for a service and notes so; the turn is released by the test.
type start struct {
	user    string
	queued  bool
	release func()
	err     error
}

// hall is some turns, and who has had one, in order.
type hall struct {
	t     *testing.T
	turns *Turns
	had   []*start
}

func (h *hall) start(ctx context.Context, user string, stop chan struct{}) *start {
	s := &start{user: user}
	go func() {
		s.release, s.err = h.turns.Take(ctx, stop, model.ServiceName{Project: "p", User: user}, func() { s.queued = true })
		if s.err == nil {
			h.had = append(h.had, s)
		}
	}()
	synctest.Wait()
	return s
}

// end releases the turns one after the other, and tells who had them.
func (h *hall) end() string {
	users := ""
	for i := 0; i < len(h.had); i++ {
		s := h.had[i]
		s.release()
		s.release() // once more is no other turn
		synctest.Wait()
		users += s.user
	}
	return users
}

// Row W02: services start in turn, however many replicas one of them wants; no
// more at once than there are turns.
func TestW02StartsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hall{t: t, turns: New(2)}
		for _, user := range []string{"a", "a", "a", "a", "a", "b", "b", "c", "a", "b"} {
			h.start(t.Context(), user, nil)
		}
		if len(h.had) != 2 || h.had[0].queued || !h.turns.Wanted() {
			t.Errorf("%d have a turn, want 2", len(h.had))
		}
		if got := h.end(); got != "aaabcababa" {
			t.Errorf("turns of %s", got)
		}
		if h.turns.Wanted() {
			t.Error("somebody waits in the end")
		}
		first := h.start(t.Context(), "d", nil)
		second := h.start(t.Context(), "d", nil)
		if first.queued || second.queued {
			t.Error("a turn was lost")
		}
	})
}

// Who gives up while it waits, or gets its turn in the same moment, takes none.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hall{t: t, turns: New(1)}
		ctx, cancel := context.WithCancel(t.Context())
		stop := make(chan struct{})
		h.start(t.Context(), "a", nil)
		stopped, cancelled, last := h.start(t.Context(), "b", stop), h.start(ctx, "c", nil), h.start(t.Context(), "b", nil)
		close(stop)
		cancel()
		synctest.Wait()
		if !errors.Is(stopped.err, ErrStopped) || !errors.Is(cancelled.err, context.Canceled) {
			t.Errorf("errors %v and %v", stopped.err, cancelled.err)
		}
		if got := h.end(); got != "ab" || !slices.Contains(h.had, last) {
			t.Errorf("turns of %s", got)
		}
		name := model.ServiceName{Project: "p", User: "d"}
		if _, ok := h.turns.enter(name); !ok {
			t.Fatal("the turn was lost")
		}
		place, _ := h.turns.enter(name)
		h.turns.release() // it is place's turn, whose owner gives up without having seen it
		h.turns.leave(name, place)
		if h.start(t.Context(), "e", nil).queued {
			t.Error("the turn of one that gave up was lost")
		}
	})
}
