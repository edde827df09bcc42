// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/admin"
)

func replicas() admin.Service {
	addr := netip.MustParseAddr
	return admin.Service{
		Name: "shop/web", VIP: addr("198.18.0.10"), Wanted: 4, LastResort: "no replica passes",
		Ports: []admin.Port{{Service: 90, Container: 8090, Protocol: "tcp"}},
		Replicas: []admin.Replica{
			{Addr4: addr("10.1.0.2"), Weight: 1, Condition: "ready", Check: "passing"},
			{Addr4: addr("10.1.0.3"), Weight: 1, Condition: "ready", Check: "passing", Reason: "not checked yet"},
			{Addr4: addr("10.1.0.4"), Weight: 1, Condition: "down", Check: "failing", Reason: "connection refused on 10.1.0.4:8090 (3 in a row)"},
			{Addr4: addr("10.1.0.5"), Weight: 1, Condition: "ready", Check: "passing", Unreachable: true, Problem: "no route to 10.1.0.5: add one"},
		},
	}
}

// What keeps a replica from its work is told with its address, and one that
// loses its connections is not called ready.
func TestReplicaTrouble(t *testing.T) {
	var b bytes.Buffer
	a := &app{out: &b}
	a.printService(replicas())
	_, got, _ := strings.Cut(b.String(), "   REPLICA")
	want := `  ADDRESS   CONDITION    WEIGHT  CHECK
✓  –        10.1.0.2  ready        1       passing
✓  –        10.1.0.3  ready        1       not checked yet
✗  –        10.1.0.4  down         1       failing
✗  –        10.1.0.5  unreachable  1       passing

problems
  replica 10.1.0.4: fails its health check: connection refused on 10.1.0.4:8090 (3 in a row)
  replica 10.1.0.5: no route to 10.1.0.5: add one
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !strings.Contains(b.String(), "checks     no replica passes") || !strings.Contains(b.String(), "2 of 4") {
		t.Errorf("head:\n%s", b.String())
	}

	b.Reset()
	a.printServices([]admin.Service{replicas()})
	for _, want := range []string{"2 of 4", "\nproblems\n", "  shop/web: replica 10.1.0.5: no route to 10.1.0.5: add one\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("services lack %q:\n%s", want, b.String())
		}
	}
}

func TestManyProblemsAreSummedUp(t *testing.T) {
	var b bytes.Buffer
	(&app{out: &b}).printProblems(make([]string, 25))
	if !strings.HasSuffix(b.String(), "  and 5 more\n") {
		t.Errorf("got\n%s", b.String())
	}
}
