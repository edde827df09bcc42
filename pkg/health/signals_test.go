// SPDX-License-Identifier: Apache-2.0

package health

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// signals is a data plane that says what the test wants, every time it is asked.
type signals struct {
	mu    sync.Mutex
	fails map[string]int // by ADDRESS:PORT
	err   error
	asked int
}

func (s *signals) EachFailure(yield func(netip.AddrPort, string, int)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	for to, n := range s.fails {
		yield(netip.MustParseAddrPort(to), "no answer", n)
	}
	return s.err
}

func (s *signals) set(fails map[string]int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails, s.err = fails, err
}

// slowly is a service that is checked rarely.
func slowly(replicas ...string) model.Service {
	s := svc("a", replicas...)
	s.Health.Interval = time.Minute
	return s
}

// A dead replica that is checked once a minute is found within seconds, and
// without signals within three minutes.
func TestL04SignalsHurryChecks(t *testing.T) {
	for _, heard := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := &signals{}
			w := run(t, Config{Signals: s})
			w.apply(slowly("10.0.0.1", "10.0.0.2"))
			pass(90 * time.Second)
			w.fail("10.0.0.2")
			if heard {
				s.set(map[string]int{"10.0.0.2:80": 7, "10.9.9.9:80": 1}, nil)
			}
			pass(4 * time.Second)
			if !heard {
				w.want("")
				return
			}
			w.want("p/a 10.0.0.2:80 down")
			if n := w.Stats().Signals; n == 0 || n > 3 {
				t.Errorf("%d signals were counted", n)
			}
			w.heal("10.0.0.2")
			pass(3 * time.Minute) // signals of connections that are long over must not hold it down
			w.want("")
		})
	}
}

// Signals alone take nothing out: the check has the last word.
func TestL04SignalsAreNoVerdict(t *testing.T) {
	for _, fall := range []int{1, 2, 3} {
		synctest.Test(t, func(t *testing.T) {
			s := &signals{}
			w := run(t, Config{Signals: s})
			svc := slowly("10.0.0.1", "10.0.0.2")
			svc.Health.Fall = fall
			w.apply(svc)
			pass(90 * time.Second)
			s.set(map[string]int{"10.0.0.2:80": 1}, nil)
			before := w.count("10.0.0.2:80")
			pass(30 * time.Second)
			w.want("")
			if n := w.count("10.0.0.2:80") - before; n < 28 || n > 32 {
				t.Errorf("fall %d: %d checks in 30 s of signals, wanted one each second", fall, n)
			}
			if n := w.published(); n != 1 {
				t.Errorf("fall %d: %d states", fall, n)
			}
		})
	}
}

func TestSignalsInWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &signals{}
		w := run(t, Config{Signals: s})
		w.apply(slowly("10.0.0.1", "10.0.0.2"))
		pass(90 * time.Second)
		w.set(errHang, "10.0.0.2") // the check has no result for a while
		s.set(map[string]int{"10.0.0.2:80": 3}, nil)
		for range 20 {
			if w.check("10.0.0.2:80").Consecutive == 1 && w.check("10.0.0.2:80").Reason != "" {
				break
			}
			pass(100 * time.Millisecond)
		}
		if c := w.check("10.0.0.2:80"); c.Reason != "10.0.0.2:80: 3 clients' connections failed: no answer (1 in a row, down at 3)" {
			t.Errorf("%+v", c)
		}
		s.set(nil, errors.New("no map"))
		pass(10 * time.Second)
		if n := strings.Count(w.logged(), "no map"); n != 1 {
			t.Errorf("the error was logged %d times: %s", n, w.logged())
		}
	})
}

// Where nothing is checked nothing is read.
func TestSignalsWithoutChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &signals{}
		w := run(t, Config{Signals: s})
		w.apply()
		pass(time.Minute)
		if s.asked != 0 {
			t.Errorf("read %d times", s.asked)
		}
	})
}
