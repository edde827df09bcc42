// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

type named string

func (n named) Name() string                        { return string(n) }
func (named) Run(context.Context, func(Part)) error { return nil }
func name(i int) model.ServiceName                  { return model.ServiceName{Project: fmt.Sprint("p", i), User: "u"} }

func addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}) }

func backends(r *rand.Rand, n int) (b []model.Backend) {
	for i := range n {
		if r.IntN(2) == 0 {
			b = append(b, model.Backend{Addr4: addr(i), Weight: 1})
		}
	}
	return b
}

// randomPart sometimes keeps some of what the last one had.
func randomPart(r *rand.Rand, last *Part) *Part {
	p := &Part{Replicas: map[model.ServiceName][]model.Backend{}}
	if last != nil && r.IntN(2) == 0 {
		p.Services = last.Services
	} else {
		for i := range 5 {
			if r.IntN(2) == 0 {
				p.Services = append(p.Services, &model.Service{
					Name: name(i), Ports: []model.Port{{Service: 1, Container: uint16(1 + r.IntN(2)), Protocol: model.TCP}}, Backends: backends(r, 3),
				})
			}
		}
	}
	for i := range 5 {
		if r.IntN(3) == 0 {
			p.Replicas[name(i)] = backends(r, 6)
		}
	}
	if r.IntN(3) == 0 {
		p.Hosts = map[model.ServiceName][]model.HTTPHost{}
		for range r.IntN(3) {
			p.Hosts[name(r.IntN(5))] = []model.HTTPHost{{Host: fmt.Sprint("h", r.IntN(3), ".test")}}
		}
	}
	for range r.IntN(4) {
		c := Condition{Addr: addr(r.IntN(6)), Condition: model.Condition(1 + r.IntN(2)), Port: uint16(r.IntN(3))}
		if r.IntN(2) == 0 {
			c.Service = name(r.IntN(5))
		}
		p.Conditions = append(p.Conditions, c)
	}
	return p
}

// A joiner that saw all changes one by one makes the same state as one that
// sees only the last parts; what it handed out before stays as it was.
func TestChangesEndInTheSameState(t *testing.T) {
	sources := []Source{named("a"), named("b"), named("c")}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		j := &joiner{sources: sources}
		parts := make([]*Part, len(sources))
		type handed struct {
			services []*model.Service
			text     string
		}
		var before []handed
		for range 10 {
			i := r.IntN(len(parts))
			parts[i] = randomPart(r, parts[i])
			s, problems := j.join(slices.Clone(parts))
			alone, alike := (&joiner{sources: sources}).join(parts)
			if diff := cmp.Diff(alone.Services, s.Services, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("seed %d: -alone +by changes\n%s", seed, diff)
			}
			if !slices.Equal(problems, alike) {
				t.Fatalf("seed %d: problems %q, alone %q", seed, problems, alike)
			}
			if len(before) > 0 {
				for was, is := range model.Changes(&model.State{Services: before[len(before)-1].services}, s) {
					if was != nil && is != nil && was.Equal(is) {
						t.Fatalf("seed %d: %s did not change and is another value", seed, is.Name)
					}
				}
			}
			before = append(before, handed{s.Services, text(s.Services)})
		}
		for _, h := range before {
			if text(h.services) != h.text {
				t.Fatalf("seed %d: a state that was handed out changed", seed)
			}
		}
	}
}

func text(services []*model.Service) string {
	var b strings.Builder
	for _, s := range services {
		fmt.Fprintf(&b, "%+v\n", *s)
	}
	return b.String()
}

func TestEarlierSourcesWin(t *testing.T) {
	j := &joiner{sources: []Source{named("file"), named("docker")}}
	mine, other := &model.Service{Name: name(1), Title: "mine"}, &model.Service{Name: name(1), Title: "other"}
	s, problems := j.join([]*Part{{Services: []*model.Service{mine}}, {Services: []*model.Service{other}}})
	if len(s.Services) != 1 || s.Services[0].Title != "mine" {
		t.Errorf("services %+v", s.Services)
	}
	want := []string{"service p1/u of source docker: refused, source file has a service of that name"}
	if !slices.Equal(problems, want) {
		t.Errorf("problems %q, wanted %q", problems, want)
	}
}

// BenchmarkJoin is one health verdict among 100 000 services with ten replicas.
func BenchmarkJoin(b *testing.B) {
	part := &Part{}
	for i := range 100_000 {
		svc := &model.Service{Name: model.ServiceName{Project: fmt.Sprintf("p%06d", i), User: "u"}, Ports: []model.Port{{Service: 1, Container: 1, Protocol: model.TCP}}}
		for k := range 10 {
			svc.Backends = append(svc.Backends, model.Backend{Addr4: addr(k), Weight: 1})
		}
		part.Services = append(part.Services, svc)
	}
	j := &joiner{sources: []Source{named("file"), named("health")}}
	j.join([]*Part{part, {}})
	n := 0
	for b.Loop() {
		n++
		j.join([]*Part{part, {Conditions: []Condition{{Service: part.Services[n*7919%100_000].Name, Addr: addr(3), Condition: model.Down}}}})
	}
}
