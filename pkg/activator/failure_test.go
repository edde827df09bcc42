// SPDX-License-Identifier: Apache-2.0

package activator

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// ended is a replica that is started again after a while.
func ended(restarts int, again time.Duration) Replica {
	r := replica("a.1", Backoff, "10.0.0.1")
	r.Restarts, r.Reason, r.Next = restarts, "exit status 3", time.Now().Add(again)
	return r
}

// TestW03CrashLoopAfterReady: a service that was ready and ends again and again
// makes nobody wait and is not started for each who asks; a short pause is held.
func TestW03CrashLoopAfterReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		a, last := napping(t, d, "")
		wake := func() error { _, err := a.Wake(t.Context(), napper, "connection", "test"); return err }
		if err := wake(); err != nil {
			t.Fatal(err)
		}
		d.set(ended(1, 200*time.Millisecond))
		want(t, "while it is down", last(), model.Asleep)
		time.AfterFunc(200*time.Millisecond, func() { d.set(replica("a.1", Ready, "10.0.0.1")) })
		if err := wake(); err != nil {
			t.Errorf("one who comes in a short pause: %v", err)
		}
		waits := make(chan error, 1)
		d.set(replica("a.1", Starting, "10.0.0.1"))
		last()
		go func() { waits <- wake() }()
		synctest.Wait()
		begun, scaled := time.Now(), len(d.scaled)
		d.set(ended(2, 4*time.Second))
		last()
		for _, err := range []error{<-waits, wake(), wake()} {
			var later *NotNow
			if !errors.As(err, &later) || later.RetryAfter() != 4*time.Second || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "the next try is at") {
				t.Errorf("in a long pause: %v", err)
			}
		}
		if time.Since(begun) != 0 || len(d.scaled) != scaled {
			t.Errorf("they waited %s, and it was scaled %d times", time.Since(begun), len(d.scaled)-scaled)
		}
		if why, retry := a.Why(napper); !strings.Contains(why, "exit status 3") || retry != 4*time.Second {
			t.Errorf("why: %q, %s", why, retry)
		}
		counts, _ := a.Wakes()
		refused := uint64(0)
		for _, c := range counts {
			if c.Result == "refused" && c.Service == napper {
				refused += c.Count
			}
		}
		want(t, "counted as refused", refused, uint64(2))
		// Nobody uses it: it is not started for ever.
		for range 4 {
			time.Sleep(4 * time.Second)
			d.set(ended(3, 4*time.Second))
			last()
		}
		want(t, "nobody uses it", a.Naps()[napper].Stage, "asleep")
		want(t, "replicas wanted in the end", d.scaled[len(d.scaled)-1], 0)
	})
}

// TestW03Hopeless: what cannot be started, as its program or image is missing,
// is given up at once.
func TestW03Hopeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		a, _ := napping(t, d, "")
		d.start = func(d *dozer) {
			r := ended(1, 100*time.Millisecond)
			r.Hopeless, r.Reason = true, "no such image"
			d.set(r)
		}
		begun := time.Now()
		_, err := a.Wake(t.Context(), napper, "request", "test")
		if err == nil || !strings.Contains(err.Error(), "it cannot be started: no such image") || time.Since(begun) != 0 {
			t.Errorf("%v after %s", err, time.Since(begun))
		}
		want(t, "stage", a.Naps()[napper].Stage, "asleep")
		// Once the image is there the next one who comes after the pause has it.
		d.mu.Lock()
		d.start = nil
		d.mu.Unlock()
		time.Sleep(failMin)
		if _, err := a.Wake(t.Context(), napper, "request", "test"); err != nil {
			t.Error(err)
		}
	})
}

// TestWhyNotRunning: of services that do not sleep, too.
func TestWhyNotRunning(t *testing.T) {
	f := newFake("process")
	a := quiet(f)
	name := model.ServiceName{Project: "p", User: "b"}
	for _, tc := range []struct {
		replicas []Replica
		want     string
	}{
		{nil, ""},
		{[]Replica{replica("b.1", Ready, "10.0.0.1")}, ""},
		{[]Replica{{ID: "b.1", Service: name, Phase: Starting, Reason: "nothing listens on 80 yet"}}, "replica b.1 is starting: nothing listens on 80 yet"},
		{[]Replica{{ID: "b.1", Service: name, Phase: Backoff, Reason: "exit status 1", Next: time.Now().Add(time.Minute)}}, "replica b.1 ended: exit status 1; the next try is at "},
	} {
		f.replicas = tc.replicas
		if got, retry := a.Why(name); !strings.HasPrefix(got, tc.want) || (tc.want == "") != (got == "") || got != "" && retry <= 0 {
			t.Errorf("%+v: %q, %s; want %q", tc.replicas, got, retry, tc.want)
		}
	}
}

// TestWakeTimes: a wake is split into the start of the process, its listen, and
// the first who waited being joined with it; nothing else counts.
func TestWakeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &dozer{fake: newFake("process")}
		a, last := napping(t, d, "")
		d.start = func(d *dozer) {
			go func() {
				time.Sleep(2 * time.Second)
				r := replica("a.1", Ready, "10.0.0.1")
				r.Started = time.Now()
				time.Sleep(time.Second)
				d.set(r)
			}()
		}
		if _, err := a.Wake(t.Context(), napper, "request", "test"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		for range 3 {
			a.Joined(napper)
			time.Sleep(time.Second)
		}
		last()
		_, times := a.Wakes()
		got := map[string]float64{}
		for _, d := range times {
			want(t, "count of "+d.Phase, d.Count, uint64(1))
			got[d.Phase] = d.Seconds
		}
		want(t, "start", got["start"], 2.0)
		want(t, "listen", got["listen"], 1.0)
		want(t, "first byte", got["first_byte"], 0.5)
	})
}
