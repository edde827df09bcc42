// SPDX-License-Identifier: Apache-2.0

package reconcile_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
)

// target notes the generations it was given, fails while fail is set, and
// takes as long as it is told.
type target struct {
	got  []uint64
	fail bool
	take time.Duration
}

func (*target) Name() string            { return "test" }
func (*target) Serves() []model.Feature { return nil }

func (t *target) Apply(_ context.Context, s *model.State) error {
	t.got = append(t.got, s.Generation)
	time.Sleep(t.take)
	if t.fail {
		return errors.New("no")
	}
	return nil
}

func state(generation uint64) *model.State { return &model.State{Generation: generation} }

// loop runs a Loop over the target while the test does things to it.
func loop(t *testing.T, do func(x *target, l *reconcile.Loop)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		x := &target{}
		l := reconcile.New(x, reconcile.Config{Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.Run(ctx); close(done) }()
		do(x, l)
		cancel()
		<-done
	})
}

func (t *target) after(d time.Duration) []uint64 {
	time.Sleep(d)
	synctest.Wait()
	got := t.got
	t.got = nil
	return got
}

func TestNewestStateWins(t *testing.T) {
	loop(t, func(x *target, l *reconcile.Loop) {
		x.take = time.Second
		l.Submit(state(1))
		synctest.Wait()
		l.Submit(state(2))
		l.Submit(state(3))
		if got := x.after(5 * time.Second); !slices.Equal(got, []uint64{1, 3}) {
			t.Errorf("applied %v, wanted 1 and then the newest, 3", got)
		}
		if err := l.Wait(t.Context(), 3); err != nil {
			t.Error(err)
		}
	})
}

func TestErrorsAreTriedAgain(t *testing.T) {
	loop(t, func(x *target, l *reconcile.Loop) {
		x.fail = true
		l.Submit(state(1))
		if got := x.after(time.Second); len(got) != 5 { // at 0, 50, 150, 350, 750 ms
			t.Errorf("tried %d times in the first second, wanted 5", len(got))
		}
		st := l.Status()
		if st.Error != "no" || st.Generation != 0 || st.Since.IsZero() {
			t.Errorf("status %+v", st)
		}
		x.fail = false
		x.after(20 * time.Second)
		if st = l.Status(); st.Error != "" || st.Generation != 1 || st.Errors < 5 {
			t.Errorf("healed to %+v", st)
		}
	})
}

func TestPasses(t *testing.T) {
	loop(t, func(x *target, l *reconcile.Loop) {
		l.Submit(state(1))
		x.after(time.Second)
		l.Submit(state(1))
		if got := x.after(time.Second); len(got) != 0 {
			t.Errorf("the same state was applied again: %v", got)
		}
		l.Kick()
		if got := x.after(time.Second); !slices.Equal(got, []uint64{1}) {
			t.Errorf("a kick applied %v", got)
		}
		if got := x.after(150 * time.Second); len(got) != 2 {
			t.Errorf("%d full passes in 150 s, wanted one a minute", len(got))
		}
		x.take = 10 * time.Second
		l.Kick()
		x.after(11 * time.Second)
		if got := x.after(180 * time.Second); len(got) != 0 {
			t.Errorf("a pass of 10 s came again within 3 minutes")
		}
		if got := x.after(60 * time.Second); len(got) != 1 {
			t.Errorf("%d passes after 4 minutes, wanted one", len(got))
		}
	})
}
