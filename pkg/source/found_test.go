// SPDX-License-Identifier: Apache-2.0

package source

import (
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// TestD04FoundPort: a service whose container port nobody wrote has the one that
// its replicas listen on, as long as there are any; one that is written stays.
func TestD04FoundPort(t *testing.T) {
	replica := func(i int, port uint16, c model.Condition) model.Backend {
		return model.Backend{Addr4: addr(i), Weight: 1, Replica: "r", Container: port, Condition: c}
	}
	for _, tc := range []struct {
		name     string
		assumed  uint16
		replicas []model.Backend
		want     uint16
	}{
		{"none yet", 80, nil, 80},
		{"found", 80, []model.Backend{replica(1, 9000, model.Ready)}, 9000},
		{"as told", 80, []model.Backend{replica(1, 0, model.Ready)}, 80},
		{"the last one drains", 80, []model.Backend{replica(1, 9000, model.Draining)}, 9000},
		{"the new one counts", 80, []model.Backend{replica(1, 9001, model.Ready), replica(2, 9000, model.Draining)}, 9001},
		{"written", 0, []model.Backend{replica(1, 9000, model.Ready)}, 80},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := &model.Service{Name: name(1), Ports: []model.Port{{Service: 90, Container: 80, Protocol: model.TCP}}, Assumed: tc.assumed}
			j := joiner{sources: []Source{named("file"), named("workloads")}}
			s, _ := j.join([]*Part{{Services: []*model.Service{svc}}, {Replicas: map[model.ServiceName][]model.Backend{name(1): tc.replicas}}})
			want := model.Port{Service: 90, Container: tc.want, Protocol: model.TCP}
			if got := s.Services[0].Ports[0]; got != want {
				t.Errorf("port %+v, want %+v", got, want)
			}
			if svc.Ports[0].Container != 80 {
				t.Error("the source's own service was changed")
			}
		})
	}
}
