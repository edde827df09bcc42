// SPDX-License-Identifier: Apache-2.0

package model_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

func service(project, user string) *model.Service {
	return &model.Service{Name: model.ServiceName{Project: project, User: user}}
}

func TestChanges(t *testing.T) {
	same, old, now := service("b", "u"), service("c", "u"), service("c", "u")
	before := &model.State{Services: []*model.Service{service("a", "u"), same, old}}
	after := &model.State{Services: []*model.Service{same, now, service("d", "u")}}
	tell := func(before, after *model.State) []string {
		out := []string{}
		for was, is := range model.Changes(before, after) {
			line := "+"
			switch {
			case is == nil:
				line = "-"
			case was != nil:
				line = "~"
			}
			name := was
			if name == nil {
				name = is
			}
			out = append(out, line+name.Name.String())
		}
		return out
	}
	for _, tt := range []struct {
		name          string
		before, after *model.State
		want          []string
	}{
		{"all kinds", before, after, []string{"-a/u", "~c/u", "+d/u"}},
		{"same", before, before, []string{}},
		{"from nothing", nil, before, []string{"+a/u", "+b/u", "+c/u"}},
		{"to nothing", before, nil, []string{"-a/u", "-b/u", "-c/u"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, tell(tt.before, tt.after)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	for range model.Changes(before, after) {
		break // must not go on calling
	}
}

// Names are ordered as their texts are, though no text is made.
func TestNamesAreOrderedAsTexts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	label := func() string {
		b := make([]byte, 1+r.IntN(3))
		for i := range b {
			b[i] = "a-0b"[r.IntN(4)]
		}
		return string(b)
	}
	for range 20_000 {
		a, b := model.ServiceName{Project: label(), User: label()}, model.ServiceName{Project: label(), User: label()}
		if got, want := a.Compare(b), strings.Compare(a.String(), b.String()); got != want {
			t.Fatalf("%s against %s: %d, wanted %d", a, b, got, want)
		}
	}
}

func BenchmarkChanges(b *testing.B) {
	var s model.State
	for i := range 100_000 {
		s.Services = append(s.Services, service(fmt.Sprintf("p%05d", i), "u"))
	}
	next := model.State{Services: slices.Clone(s.Services)}
	next.Services[50_000] = service("p50000", "u")
	for b.Loop() {
		n := 0
		for range model.Changes(&s, &next) {
			n++
		}
		if n != 1 {
			b.Fatal(n)
		}
	}
}
