// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/metrics"
)

// A service shows its server names, and the status what is wrong with them.
func TestNamesAreShown(t *testing.T) {
	h := newHarness(t, func(p *parts) { p.tcp = fakeFront{"no certificate yet"} })
	h.run(t)
	s := wait(t, "start", h.started)
	if want := "service a/u: name a.example.com: no certificate yet"; !slices.Contains(s.Problems, want) {
		t.Errorf("problems %q lack %q", s.Problems, want)
	}
	want := []admin.Name{{Host: "a.example.com", Kind: "REDIS", TLS: "terminate", Active: 2, Problem: "no certificate yet"}}
	for _, svc := range h.services() {
		if svc.Name != "a/u" {
			want = nil
		}
		if diff := cmp.Diff(want, svc.Names); diff != "" {
			t.Errorf("%s: %s", svc.Name, diff)
		}
	}
	routed := metrics.Router{
		Results: []metrics.RouterResult{{Kind: "redis", Result: "routed", Count: 3}}, Active: map[string]uint64{"redis": 2},
	}
	if diff := cmp.Diff(routed, h.routed()); diff != "" {
		t.Error(diff)
	}
	h.Stop()
	if err := wait(t, "stop", h.done); err != nil {
		t.Error(err)
	}
}
