// SPDX-License-Identifier: Apache-2.0

package rollout_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/runner/rollout"
)

func TestPlan(t *testing.T) {
	c := func(id string) rollout.Candidate { // N: new, O: old; +: ready
		id, at, _ := strings.Cut(id, "@") // @: started then
		sec, _ := strconv.Atoi(at)
		return rollout.Candidate{ID: id, Current: id[0] == 'N', Ready: strings.HasSuffix(id, "+"), Since: time.Unix(int64(sec), 0)}
	}
	for _, tc := range []struct {
		n     int
		have  string
		start int
		stop  string
	}{
		{0, "", 0, ""},
		{2, "", 2, ""},
		{2, "N1+ N2", 0, ""},
		{1, "N1 N2+", 0, "N1"},
		{1, "N1+ N2+ N3", 0, "N3 N1+"},
		{1, "N1+@3 N2+@2 N3@1", 0, "N3 N2+"},
		{2, "N1+@3 N2+@1 N3+@2", 0, "N2+"},
		{0, "N1+ O2+", 0, "N1+ O2+"},
		{2, "O1+ O2+", 2, ""},
		{2, "O1+ O2+ N3+ N4", 0, "O2+"},
		{2, "O1+ O2+ N3+ N4+", 0, "O1+ O2+"},
		{2, "O1+ O2 N3", 1, "O2"},
		{1, "O1+ O2+", 1, "O2+"},
	} {
		var have []rollout.Candidate
		for _, id := range strings.Fields(tc.have) {
			have = append(have, c(id))
		}
		start, stop := rollout.Plan(tc.n, have)
		if got := strings.Join(stop, " "); start != tc.start || got != tc.stop {
			t.Errorf("Plan(%d, %s) = %d, %q; want %d, %q", tc.n, tc.have, start, got, tc.start, tc.stop)
		}
	}
}

func TestIDs(t *testing.T) {
	taken := map[string]bool{"a.b.1": true, "a.b.2": true, "a.b.10": true}
	id := rollout.FreeID(model.ServiceName{Project: "a", User: "b"}, func(id string) bool { return taken[id] })
	if id != "a.b.3" {
		t.Errorf("free id %s, want a.b.3", id)
	}
	ids := []string{"a.b.10", "a.b.2", "a.b.1"}
	slices.SortFunc(ids, rollout.CompareIDs)
	if got := strings.Join(ids, " "); got != "a.b.1 a.b.2 a.b.10" {
		t.Errorf("in order: %s", got)
	}
}

func TestBackoff(t *testing.T) {
	b := rollout.Backoff{Max: time.Second}.Default()
	var got []time.Duration
	var wait time.Duration
	for _, served := range []time.Duration{-1, -1, time.Second, -1, -1, 10 * time.Second, -1} {
		wait = b.Next(wait, served)
		got = append(got, wait/time.Millisecond)
	}
	if want := []time.Duration{100, 200, 400, 800, 1000, 100, 200}; !slices.Equal(got, want) {
		t.Errorf("waits of %v ms, want %v", got, want)
	}
}
