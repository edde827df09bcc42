// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// crier is a dozer that tells of a replica that is ready before it lists it.
type crier struct {
	*dozer
	tell func(Replica) bool
}

func (c *crier) Herald(f func(Replica) bool) { c.tell = f }

// Row W08: a replica that was heralded serves those who wait; all the rest follows
// when it is listed, or would be at the latest.
func TestW08Heralded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process"), start: func(d *dozer) { d.set(replica("a.1", Starting, "10.0.0.1")) }}
		c := &crier{dozer: d}
		file := filepath.Join(t.TempDir(), "sleep.json")
		a, last := nappingWith(t, c, d.fake, file)
		up := replica("a.1", Ready, "10.0.0.1")
		want(t, "before anybody asked: awaited", c.tell(up), false)
		woken := make(chan error, 1)
		go func() {
			_, err := a.Wake(t.Context(), napper, "connection", "test")
			woken <- err
		}()
		want(t, "while it starts", last(), model.Asleep)
		asked := a.Naps()[napper].Since
		time.Sleep(time.Second)
		want(t, "awaited", c.tell(up), true)
		if err := <-woken; err != nil {
			t.Error(err)
		}
		want(t, "the second time: awaited", c.tell(up), false)
		want(t, "before it is listed", last(), model.Asleep)
		kept := New(Config{SleepFile: file}).Naps()[napper]
		want(t, "kept before it is listed: since", kept.Since.Equal(asked), true)
		d.set(up)
		want(t, "when it is listed", last(), model.Awake)
		kept = New(Config{SleepFile: file}).Naps()[napper]
		want(t, "kept: stage", kept.Stage, "awake")
		want(t, "kept: since", kept.Since.Equal(asked.Add(time.Second)), true)
		time.Sleep(12 * time.Second)
		want(t, "with nobody", a.Naps()[napper].Stage, "dozing")
	})
}

// Issue 6: a start that waits for its turn, as others start, is not charged with
// the wait, nor are those who wait for it: startTimeout (5 s) begins with its turn.
func TestQueuedStartIsNotLate(t *testing.T) {
	for _, good := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			d := &dozer{fake: newFake("process")}
			of := func(phase Phase, addr string, queued bool) Replica {
				r := replica("a.1", phase, addr)
				r.Queued = queued
				return r
			}
			d.start = func(d *dozer) { d.set(of(Starting, "", true)) }
			a, _ := napping(t, d, "")
			woken := make(chan error, 2)
			wake := func() {
				_, err := a.Wake(t.Context(), napper, "connection", "test")
				woken <- err
			}
			go wake()
			time.Sleep(time.Minute)
			go wake()
			time.Sleep(3 * time.Second)
			want(t, "while it waits for its turn", a.Naps()[napper].Stage, "waking")
			d.set(of(Starting, "10.0.0.1", false))
			time.Sleep(5*time.Second - time.Millisecond)
			want(t, "within its own time", a.Naps()[napper].Stage, "waking")
			want(t, "answers within its own time", len(woken), 0)
			if good {
				d.set(of(Ready, "10.0.0.1", false))
			} else {
				time.Sleep(time.Millisecond)
			}
			for range 2 {
				if err := <-woken; good != (err == nil) || !good && !errors.Is(err, ErrTimeout) {
					t.Errorf("good %v: one that waits: %v", good, err)
				}
			}
			synctest.Wait()
			want(t, "in the end", a.Naps()[napper].Stage, map[bool]string{true: "awake", false: "asleep"}[good])
		})
	}
}
