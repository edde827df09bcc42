// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

func TestNewReplicaServesUntilItHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.want("") // synced at once
		w.fail("10.0.0.2")
		w.apply(svc("a", "10.0.0.1", "10.0.0.2"))
		pass(400 * time.Millisecond)
		if c := w.check("10.0.0.2:80"); !c.Healthy || c.Checked || c.Consecutive != 1 || w.published() != 1 {
			t.Errorf("after the first failure: %+v, %d parts", c, w.published())
		}
		pass(700 * time.Millisecond) // the third failure in a row, at the pace of a new replica
		w.want("p/a 10.0.0.2:80 down")
		if c := w.check("10.0.0.1:80"); !c.Healthy || !c.Checked || c.Reason != "" || c.LastError != "" {
			t.Errorf("the other: %+v", c)
		}
		c := w.check("10.0.0.2:80")
		if c.Healthy || !c.Checked || c.LastError != "connection refused on 10.0.0.2:80" ||
			c.Reason != "connection refused on 10.0.0.2:80 (3 in a row)" || c.NextAt.Before(time.Now()) {
			t.Errorf("after the third: %+v", c)
		}
		if log := w.logged(); strings.Count(log, "\n") != 1 || !strings.Contains(log, "level=WARN") ||
			!strings.Contains(log, `msg="replica fails its health check" service=p/a replica=10.0.0.2:80 reason="connection refused on 10.0.0.2:80 (3 in a row)"`) {
			t.Error(log)
		}
	})
}

func TestRiseAndFall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.apply(svc("a", "10.0.0.1", "10.0.0.2"))
		pass(10 * time.Second)
		w.want("")
		w.fail("10.0.0.2")
		pass(3900 * time.Millisecond) // at most two checks
		w.want("")
		w.heal("10.0.0.2")
		pass(2 * time.Second)
		w.fail("10.0.0.2") // the count starts again
		pass(3900 * time.Millisecond)
		w.want("")
		if c := w.check("10.0.0.2:80"); !strings.HasSuffix(c.Reason, " in a row, down at 3)") || !c.Healthy {
			t.Errorf("%+v", c)
		}
		pass(2100 * time.Millisecond)
		w.want("p/a 10.0.0.2:80 down")
		w.heal("10.0.0.2")
		pass(2 * time.Second)
		w.want("p/a 10.0.0.2:80 down")
		if c := w.check("10.0.0.2:80"); c.Reason != "answers again (1 of 2) after: connection refused on 10.0.0.2:80" {
			t.Errorf("%+v", c)
		}
		pass(2 * time.Second)
		w.want("")
		if log := w.logged(); !strings.Contains(log, `level=INFO msg="replica passes its health check again" service=p/a replica=10.0.0.2:80 down=4s`) {
			t.Error(log)
		}
	})
}

// A check keeps its interval, and thousands do not come at once.
func TestChecksAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 2000
		var replicas []string
		for i := range n {
			replicas = append(replicas, fmt.Sprintf("10.0.%d.%d", i/250, 1+i%250))
		}
		s := svc("a", replicas...)
		s.Health.Interval = 10 * time.Second
		w := run(t, Config{Rand: rand.Float64})
		begun := time.Now()
		w.apply(s)
		pass(60 * time.Second)
		early, slots := 0, make([]int, 100) // of 100 ms, in the third interval
		for to, at := range w.asked() {
			if len(at) < 6 || len(at) > 8 {
				t.Fatalf("%s was asked %d times in six intervals", to, len(at))
			}
			if at[0].Sub(begun) < 210*time.Millisecond {
				early++
			}
			for i := range at[2:] {
				if d := at[i+2].Sub(at[i+1]); i > 0 && (d < 9980*time.Millisecond || d > 10020*time.Millisecond) {
					t.Fatalf("%s was asked after %s", to, d)
				}
			}
			for _, a := range at {
				if d := a.Sub(begun); d >= 30*time.Second && d < 40*time.Second {
					slots[d%(10*time.Second)/(100*time.Millisecond)]++
				}
			}
		}
		if early != n {
			t.Errorf("%d of %d replicas were asked within 210 ms", early, n)
		}
		if m := slices.Max(slots); m > 3*n/100 {
			t.Errorf("%d checks within 100 ms, %d in ten seconds", m, n)
		}
	})
}

func TestEqualStateDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.fail("10.0.0.2")
		w.apply(svc("a", "10.0.0.1", "10.0.0.2"))
		pass(10*time.Second + time.Millisecond)
		before, parts := w.Checks(), w.published()
		w.apply(svc("a", "10.0.0.1", "10.0.0.2")) // equal, another pointer
		if !slices.Equal(before, w.Checks()) || w.published() != parts {
			t.Errorf("before %+v, after %+v, %d parts more", before, w.Checks(), w.published()-parts)
		}
		s := svc("a", "10.0.0.1", "-10.0.0.2")
		s.Title, s.Drain = "other", time.Hour
		w.apply(s)
		if !slices.Equal(before, w.Checks()) || w.published() != parts {
			t.Errorf("before %+v, after %+v, %d parts more", before, w.Checks(), w.published()-parts)
		}
	})
}

func TestChangedHealthRestartsItsServiceOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.fail("10.0.0.2", "10.1.0.2")
		a, b := svc("a", "10.0.0.1", "10.0.0.2"), svc("b", "10.1.0.1", "10.1.0.2")
		w.apply(a, b)
		pass(19 * time.Second) // no check of the other service is due before the end
		const both = "p/a 10.0.0.2:80 down, p/b 10.1.0.2:80 down"
		w.want(both)
		before := w.check("10.1.0.2:80")

		a.Health.Interval, a.Health.Fall = time.Minute, 2 // another pace: the verdict holds
		w.apply(a, b)
		pass(10 * time.Millisecond)
		w.want(both)
		if c := w.check("10.0.0.2:80"); c.Healthy || c.Consecutive != 1 || c.Since.After(time.Now().Add(-10*time.Second)) {
			t.Errorf("changed pace: %+v", c)
		}
		a.Health.Type, a.Health.Path = "http", "/" // another question: so is the answer
		w.apply(a, b)
		pass(settle)
		w.want("p/b 10.1.0.2:80 down")
		if c := w.check("10.0.0.2:80"); !c.Healthy || c.Checked || c.Type != "http" {
			t.Errorf("changed question: %+v", c)
		}
		if c := w.check("10.1.0.2:80"); c != before {
			t.Errorf("the other service: %+v, before %+v", c, before)
		}
		a.Health = model.HealthCheck{Type: "none"}
		w.apply(a, b)
		if n := len(w.Checks()); n != 2 {
			t.Errorf("%d checks are left", n)
		}
	})
}

func TestRemovedReplicaIsForgottenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.fail("10.0.0.2")
		w.set(errHang, "10.0.0.3")
		w.apply(svc("a", "10.0.0.1", "10.0.0.2", "10.0.0.3"), svc("b", "10.0.0.1", "10.0.0.2"))
		pass(20 * time.Second)
		w.want("p/a 10.0.0.2:80 down, p/a 10.0.0.3:80 down, p/b 10.0.0.2:80 down")
		for now, _ := w.hanging(); now == 0; now, _ = w.hanging() {
			pass(100 * time.Millisecond) // until a check of the third hangs
		}
		w.apply(svc("a", "10.0.0.1"), svc("b", "10.0.0.1", "10.0.0.2"))
		if now, _ := w.hanging(); now != 0 {
			t.Error("the check goes on")
		}
		pass(settle)
		w.want("p/b 10.0.0.2:80 down")
		w.apply()
		pass(settle)
		w.want("")
		asked := w.count("10.0.0.1:80")
		pass(time.Hour)
		if w.count("10.0.0.1:80") != asked || len(w.Checks()) != 0 || len(w.Services()) != 0 {
			t.Error("it is still checked")
		}
		w.apply(svc("a", "10.0.0.1", "10.0.0.2")) // back: nothing is known
		pass(20 * time.Millisecond)
		w.want("")
	})
}

// Without checks nothing wakes up, with one nothing but its own time does.
func TestSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		alarm := func() time.Time {
			w.Checker.mu.Lock()
			defer w.Checker.mu.Unlock()
			return w.alarm
		}
		if at := alarm(); !at.IsZero() {
			t.Errorf("wakes at %s with nothing to do", at)
		}
		s := svc("a", "10.0.0.1")
		s.Health.Interval = time.Hour
		w.apply(s)
		pass(2 * time.Hour)
		if at := alarm(); !at.Equal(w.check("10.0.0.1:80").NextAt) {
			t.Errorf("wakes at %s", at)
		}
		w.apply(ports(svc("a", "10.0.0.1"), -53))
		if at := alarm(); !at.IsZero() {
			t.Errorf("wakes at %s with nothing to do", at)
		}
		if n := w.service("a").Note; !strings.Contains(n, "only UDP") || !slices.ContainsFunc(w.Problems(), func(p string) bool { return strings.Contains(p, n) }) {
			t.Errorf("note %q, problems %q", n, w.Problems())
		}
	})
}

func TestParallelIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{Rand: rand.Float64, Parallel: 10})
		var replicas []string
		for i := range 100 {
			replicas = append(replicas, fmt.Sprintf("10.0.0.%d", i+1))
		}
		w.set(errHang, replicas...)
		w.heal("10.0.0.1")
		w.apply(svc("a", replicas...))
		pass(5 * time.Second)
		_, most := w.hanging()
		if s := w.Stats(); most != 10 || s.Busy != 10 || s.Waiting != 90 || s.Late == 0 {
			t.Errorf("%d at once, %+v", most, s)
		}
		pass(time.Minute) // slower, but every one is found out
		if n := strings.Count(w.last(), "down"); n != 99 {
			t.Errorf("%d are down", n)
		}
		if c := w.check("10.0.0.2:80"); c.LastError != "no connection to 10.0.0.2:80 within 1s" {
			t.Errorf("%+v", c)
		}
	})
}

// What this host lacks is not the replicas' fault.
func TestStrainedHostJudgesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.fail("10.0.0.2")
		w.apply(svc("a", "10.0.0.1", "10.0.0.2", "10.0.0.3"))
		pass(10 * time.Second)
		w.set(syscall.EMFILE, "10.0.0.1", "10.0.0.2", "10.0.0.3")
		pass(10 * time.Second)
		w.want("p/a 10.0.0.2:80 down")
		if s := w.Stats(); s.Inconclusive < 12 || strings.Count(w.logged(), "level=ERROR") != 1 {
			t.Errorf("%+v, log %s", s, w.logged())
		}
		want := []string{"health checks cannot be made, replicas keep their last verdict: too many open files"}
		if got := w.Problems(); !slices.Equal(got, want) {
			t.Errorf("problems %q", got)
		}
		w.heal("10.0.0.1", "10.0.0.2", "10.0.0.3")
		pass(2 * time.Minute)
		w.want("")
		if got := w.Problems(); len(got) != 0 {
			t.Errorf("problems %q", got)
		}
	})
}

func TestMassFailureIsFewParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{Rand: rand.Float64})
		var good, bad []string
		for i := range 1000 {
			bad = append(bad, fmt.Sprintf("10.0.%d.%d", i/250, 1+i%250))
			good = append(good, fmt.Sprintf("10.1.%d.%d", i/250, 1+i%250))
		}
		w.apply(svc("a", append(good, bad...)...))
		pass(time.Minute)
		w.fail(bad...)
		pass(10 * time.Second)
		if n := strings.Count(w.last(), "down"); n != 1000 || w.published() > 2+3*20 { // two seconds of changes, and those at their ends
			t.Errorf("%d are down after %d parts", n, w.published())
		}
	})
}

// What was found out outlives Run, and a check that it cut short is no failure.
func TestRunEndsAndBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, down: map[string]error{}, dials: map[string][]time.Time{}}
		w.fail("10.0.0.2")
		w.set(errHang, "10.0.0.3")
		w.Checker = New(Config{Dial: w.dial, Log: slog.New(slog.DiscardHandler)})
		w.apply(svc("a", "10.0.0.1", "10.0.0.2", "10.0.0.3")) // before it runs
		for i := range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.Run(ctx, w.take) }()
			pass(900 * time.Millisecond)
			if s := w.Stats(); s.Busy != 1 && i < 2 {
				t.Errorf("%+v", s)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if s := w.Stats(); s.Busy != 0 || s.Waiting != 3 {
				t.Errorf("%+v", s)
			}
		}
		w.want("p/a 10.0.0.2:80 down")
		if c := w.check("10.0.0.3:80"); !c.Healthy || c.Checked || c.Consecutive != 0 || c.Reason != "not checked yet" {
			t.Errorf("%+v", c)
		}
	})
}

// What an agent before this one found down is down from the first part on, until
// it passes as often as any other.
func TestPriorFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := run(t, Config{})
		old.fail("10.0.0.2")
		old.apply(svc("a", "10.0.0.1", "10.0.0.2"), svc("b", "10.0.0.2"))
		pass(10 * time.Second)
		old.want("p/a 10.0.0.2:80 down") // b is at its last resort
		prior := old.Failed()
		if len(prior) != 2 || !prior[0].Published || prior[1].Published || prior[0].Words != "connection refused on 10.0.0.2:80" {
			t.Fatalf("%+v", prior)
		}
		w := run(t, Config{Prior: prior})
		w.want("p/a 10.0.0.2:80 down")
		w.fail("10.0.0.2")
		w.apply(svc("a", "10.0.0.1", "10.0.0.2"), svc("b", "10.0.0.2"))
		pass(10 * time.Second)
		w.want("p/a 10.0.0.2:80 down")
		if n := w.published(); n > 2 {
			t.Errorf("%d parts for one and the same", n)
		}
		if c := w.service("b"); c.LastResort == "" {
			t.Errorf("b: %+v", c)
		}
		w.heal("10.0.0.2")
		pass(10 * time.Second)
		w.want("")
		w.apply(svc("a", "10.0.0.1"))
		w.apply(svc("a", "10.0.0.1", "10.0.0.2")) // it is new now
		pass(50 * time.Millisecond)
		w.want("")
	})
}
