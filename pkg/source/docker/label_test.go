// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// summary is a container that runs on the default bridge.
func summary(name string, created int64, labels ...string) container.Summary {
	c := container.Summary{
		Names: []string{"/" + name}, Created: created, State: container.StateRunning, Status: "Up 5 minutes",
		Labels: map[string]string{"fairlead.project": "shop", "fairlead.user": "web", "com.example": "x"},
		NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{
			"bridge": {IPAddress: netip.MustParseAddr("172.17.0.2"), GlobalIPv6Address: netip.MustParseAddr("fd00:29::2")},
			"back":   {IPAddress: netip.MustParseAddr("10.9.0.2")},
		}},
	}
	for _, pair := range labels {
		k, v, _ := strings.Cut(pair, "=")
		c.Labels["fairlead."+k] = v
	}
	return c
}

func TestBackendOfContainer(t *testing.T) {
	stopped := summary("a", 1)
	stopped.State = container.StateExited
	sick := summary("a", 1)
	sick.Status = "Up 5 minutes (unhealthy)"
	starting := summary("a", 1)
	starting.Status = "Up 1 second (health: starting)"
	host := summary("a", 1)
	host.NetworkSettings.Networks = map[string]*network.EndpointSettings{"host": {}}
	bare := summary("a", 1)
	bare.NetworkSettings = nil
	for name, tc := range map[string]struct {
		c     container.Summary
		want  string // address, weight, condition; empty: it serves nobody
		fault string
	}{
		"plain":         {summary("a", 1), "172.17.0.2 fd00:29::2 1 ready", ""},
		"other network": {summary("a", 1, "network=back"), "10.9.0.2 invalid IP 1 ready", ""},
		"no network":    {summary("a", 1, "network=none"), "", `label fairlead.network: got "none", but it is in back, bridge`},
		"weight":        {summary("a", 1, "weight=7"), "172.17.0.2 fd00:29::2 7 ready", ""},
		"no weight":     {summary("a", 1, "weight=0"), "", `label fairlead.weight: got "0", want a number from 1 to 65535`},
		"backup":        {summary("a", 1, "backup=yes"), "", `label fairlead.backup: got "yes", want true or false`},
		"stopped":       {stopped, "", ""},
		"sick":          {sick, "172.17.0.2 fd00:29::2 1 down", ""},
		"starting":      {starting, "172.17.0.2 fd00:29::2 1 down", ""},
		"host":          {host, "", "it has no address of its own in network host"},
		"bare":          {bare, "", "it has no network"},
	} {
		t.Run(name, func(t *testing.T) {
			l, fault := read(tc.c)
			if !strings.HasPrefix(fault, tc.fault) || (fault == "") != (tc.fault == "") {
				t.Fatalf("fault %q, want %q", fault, tc.fault)
			}
			if fault != "" {
				return
			}
			got := ""
			if b, ok := l.backend(); ok {
				got = strings.Join([]string{b.Addr4.String(), b.Addr6.String(), string(rune('0' + b.Weight)), b.Condition.String()}, " ")
			}
			if got != tc.want {
				t.Errorf("backend %q, want %q", got, tc.want)
			}
		})
	}
}

// TestGroups: the oldest container that runs says what its service is.
func TestGroups(t *testing.T) {
	gone := summary("gone", 1, "servicePort=1")
	gone.State = container.StateExited
	own := summary("own", 1, "owner=fairlead")
	groups, problems := group([]container.Summary{
		summary("third", 4, "servicePort=90"), summary("first", 2, "servicePort=90"), summary("second", 3, "servicePort=91"),
		gone, own, summary("alone", 9, "user=other"),
	})
	var got []string
	for _, g := range groups {
		names := ""
		for _, l := range g {
			names += l.name + " "
		}
		got = append(got, names)
	}
	if diff := cmp.Diff([]string{"first third ", "alone "}, got); diff != "" {
		t.Error(diff)
	}
	want := []string{`container second: label fairlead.servicePort is "91", but container first of the same service has "90": make them equal`}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Error(diff)
	}
}
