// SPDX-License-Identifier: Apache-2.0

package source

import (
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

func TestA11HostsOfOtherSources(t *testing.T) {
	name := func(user string) model.ServiceName { return model.ServiceName{Project: "p", User: user} }
	ports := []model.Port{{Service: 80, Container: 8080, Protocol: model.TCP}, {Service: 90, Container: 8090, Protocol: model.TCP}}
	own := []model.HTTPPath{{Path: "/a", ServicePort: 90}}
	file := &Part{Services: []*model.Service{
		{Name: name("a"), Ports: ports, HTTP: []model.HTTPHost{{Host: "a.test", Paths: own}}},
		{Name: name("b"), Ports: ports},
		{Name: name("u"), Ports: []model.Port{{Service: 53, Container: 53, Protocol: model.UDP}}},
	}}
	domains := &Part{Hosts: map[model.ServiceName][]model.HTTPHost{
		name("a"):    {{Host: "shop.test", TLS: true}, {Host: "a.test"}},
		name("b"):    {{Host: "a.test"}, {Host: "b.test"}, {Host: "shop.test"}},
		name("u"):    {{Host: "u.test"}},
		name("gone"): {{Host: "gone.test"}},
	}}
	s, problems := (&joiner{sources: []Source{named("file"), named("domains")}}).join([]*Part{file, domains})
	hosts := func(user string) string {
		svc, _ := s.Service(name(user))
		var out []string
		for _, h := range svc.HTTP {
			for _, p := range h.Paths {
				out = append(out, h.Host+p.Path)
			}
		}
		return strings.Join(out, " ")
	}
	for user, want := range map[string]string{"a": "a.test/a shop.test/a", "b": "b.test/", "u": ""} {
		if got := hosts(user); got != want {
			t.Errorf("hosts of %s: %q, want %q", user, got, want)
		}
	}
	if b, _ := s.Service(name("b")); b.HTTP[0].Paths[0].ServicePort != 80 {
		t.Errorf("b.test leads to port %d, want 80", b.HTTP[0].Paths[0].ServicePort)
	}
	all := strings.Join(problems, "\n")
	for _, want := range []string{
		"host a.test of source domains for service p/b: refused, service p/a has it already",
		"host shop.test of source domains for service p/b: refused, service p/a has it already",
		"host u.test of source domains for service p/u: refused, the service has no TCP port",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("problems\n%s\nlack %q", all, want)
		}
	}
	if len(problems) != 3 {
		t.Errorf("%d problems, want 3:\n%s", len(problems), all)
	}
	if len(file.Services[0].HTTP) != 1 {
		t.Error("the file's part was changed")
	}
}

// A service that changes in what no host depends on is let go of: with a thousand
// that wake or fall asleep the old ones would stay in memory as long as the agent.
func TestOldServicesAreLetGo(t *testing.T) {
	name := model.ServiceName{Project: "p", User: "a"}
	file := &Part{Services: []*model.Service{{Name: name, Ports: []model.Port{{Service: 80, Container: 8080, Protocol: model.TCP}}}}}
	j := &joiner{sources: []Source{named("file"), named("workloads")}}
	for _, sleep := range []model.Sleep{model.Asleep, model.Awake, model.Awake} {
		s, _ := j.join([]*Part{file, {Sleep: map[model.ServiceName]model.Sleep{name: sleep}}})
		svc, ok := s.Service(name)
		if !ok || svc.Sleep != sleep || j.hosts.seen[name] != svc {
			t.Errorf("%v: the hosts have %p, the state %p (%v)", sleep, j.hosts.seen[name], svc, svc)
		}
	}
}
