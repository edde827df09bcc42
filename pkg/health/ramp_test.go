// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// slow is a service whose replicas start slowly.
func slow(name string, over time.Duration, replicas ...string) model.Service {
	s := svc(name, replicas...)
	s.Health.SlowStart = over
	return s
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.apply(slow("a", 30*time.Second, "10.0.0.1", "10.0.0.2"))
		w.fail("10.0.0.2")
		pass(10 * time.Second)
		w.want("p/a 10.0.0.2:80 down")
		w.heal("10.0.0.2")
		before := w.published()
		var steps []string
		begun := time.Time{}
		for last := w.last(); w.last() != ""; pass(10 * time.Millisecond) {
			if w.last() == last {
				continue
			}
			if begun.IsZero() {
				begun = time.Now()
			}
			last = w.last()
			steps = append(steps, fmt.Sprintf("%.0fs %s", time.Since(begun).Seconds(), strings.TrimPrefix(last, "p/a 10.0.0.2 ")))
			if got, want := w.Backend(name("a"), model.Backend{Addr4: netip.MustParseAddr("10.0.0.2")}).Reason, strings.TrimPrefix(last, "p/a 10.0.0.2 "); !strings.Contains(got, strings.Replace(want, "%", " %", 1)) {
				t.Errorf("at %s the reason is %q", want, got)
			}
		}
		want := "0s 10%, 3s 20%, 7s 30%, 10s 40%, 13s 50%, 17s 60%, 20s 70%, 23s 80%, 27s 90%"
		if got := strings.Join(steps, ", "); got != want {
			t.Errorf("steps %s, wanted %s", got, want)
		}
		if took := time.Since(begun); took < 30*time.Second || took > 30100*time.Millisecond {
			t.Errorf("the whole share came after %v, wanted 30s", took)
		}
		if n := w.published() - before; n != 10 {
			t.Errorf("%d states, wanted 10", n)
		}
		pass(time.Minute)
		if n := w.published() - before; n != 10 {
			t.Errorf("%d states a minute later", n)
		}
	})
}

// What fails again while it starts begins anew; what was kept at the last
// resort has not been away.
func TestSlowStartBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, Config{})
		w.apply(slow("a", 30*time.Second, "10.0.0.1", "10.0.0.2"))
		w.fail("10.0.0.2")
		pass(10 * time.Second)
		w.heal("10.0.0.2")
		pass(10 * time.Second)
		if got := w.last(); got == "p/a 10.0.0.2 10%" || !strings.HasSuffix(got, "%") {
			t.Errorf("on its way: %q", got)
		}
		w.fail("10.0.0.2")
		pass(8 * time.Second)
		w.want("p/a 10.0.0.2:80 down")
		w.fail("10.0.0.1") // the last resort: both serve
		pass(8 * time.Second)
		w.want("")
		w.heal("10.0.0.1", "10.0.0.2")
		pass(100 * time.Millisecond)
		for range 100 {
			if got := w.last(); got != "" && got != "p/a 10.0.0.2:80 down" && got != "p/a 10.0.0.1:80 down" &&
				got != "p/a 10.0.0.1 10%" && got != "p/a 10.0.0.2 10%" {
				t.Fatalf("published %q", got)
			}
			pass(20 * time.Millisecond)
		}
	})
}

// The service or the wish for a slow start goes away in the middle of one.
func TestSlowStartEndsWithItsService(t *testing.T) {
	for name, next := range map[string][]model.Service{
		"gone":             nil,
		"without":          {svc("a", "10.0.0.1", "10.0.0.2")},
		"without its like": {slow("a", 30*time.Second, "10.0.0.1")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := run(t, Config{})
				w.apply(slow("a", 30*time.Second, "10.0.0.1", "10.0.0.2"))
				w.fail("10.0.0.2")
				pass(10 * time.Second)
				w.heal("10.0.0.2")
				pass(5 * time.Second)
				if got := w.last(); !strings.HasSuffix(got, "%") {
					t.Fatalf("on its way: %q", got)
				}
				w.apply(next...)
				pass(time.Second)
				w.want("")
				n := w.published()
				pass(time.Minute)
				if w.published() != n {
					t.Errorf("%d states after the end", w.published()-n)
				}
			})
		})
	}
}

func TestShareAt(t *testing.T) {
	for _, over := range []time.Duration{time.Millisecond, time.Second, 2500 * time.Millisecond, 7 * time.Second, time.Hour} {
		states, last := 0, uint8(0)
		for age := time.Duration(0); ; {
			share, next := shareAt(age, over)
			states++
			if share == 0 {
				if age < over {
					t.Errorf("%v: whole after %v", over, age)
				}
				break
			}
			if share <= last || share > 99 || next <= age || next > over {
				t.Fatalf("%v after %v: %d %%, then %d %%, next after %v", over, age, last, share, next)
			}
			last, age = share, next
		}
		if states > 10 {
			t.Errorf("%v: %d states", over, states)
		}
	}
}
