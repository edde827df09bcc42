// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/admin"
	"github.com/fairlead-lb/fairlead/pkg/attach"
)

func TestHuman(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0s", 0: "0s", 20 * time.Millisecond: "20ms", 59 * time.Second: "59s", 61 * time.Second: "1m1s",
		3 * time.Hour: "3h0m", 49 * time.Hour: "2d1h",
	} {
		if got := human(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 150 << 20: "150 MiB", 3 << 40: "3.0 TiB", 1 << 63: "8192 PiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestColourDoesNotMoveColumns(t *testing.T) {
	lines := func(p paint) []string {
		var b bytes.Buffer
		tb := &table{head: []string{"A", "B"}}
		tb.add(p.green("●"), p.bold("x"))
		tb.add("long cell", "y")
		tb.write(&b, p, "  ")
		return strings.Split(b.String(), "\n")
	}
	plain, coloured := lines(paint{}), lines(paint{on: true})
	for i := range plain {
		if plain[i] != strip(coloured[i]) {
			t.Errorf("line %d: %q in colour, %q without", i, strip(coloured[i]), plain[i])
		}
	}
}

func strip(s string) string {
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return s
		}
		s = s[:i] + s[i+strings.IndexByte(s[i:], 'm')+1:]
	}
}

func TestNoColourWithoutATerminal(t *testing.T) {
	if p := newPaint(&bytes.Buffer{}, func(string) string { return "" }); p.on {
		t.Error("colour on what is no terminal")
	}
}

// The names of essential facts are attach's: this fails when they change.
func TestEssentialFactsAreProbed(t *testing.T) {
	var names []string
	for _, f := range attach.Probe() {
		names = append(names, f.Name)
	}
	for _, e := range essential {
		if !slices.Contains(names, e) {
			t.Errorf("essential fact %q is not among %q", e, names)
		}
	}
}

func TestFacts(t *testing.T) {
	facts := []attach.Fact{
		{Name: "kernel", OK: true, Value: "6.18"},
		{Name: "CAP_BPF", Value: "missing", Lost: "everything", Fix: "run as root"},
		{Name: "tcx", Value: "no", Lost: "speed"},
	}
	var b bytes.Buffer
	a := &app{out: &b}
	a.printFacts(facts)
	want := "✓  kernel   6.18\n✗  CAP_BPF  missing\n            lost: everything\n            do:   run as root\n!  tcx      no\n            lost: speed\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	if m := missingFacts(facts); !slices.Equal(m, []string{"CAP_BPF"}) {
		t.Errorf("missing %q, want CAP_BPF alone", m)
	}
}

func TestReach(t *testing.T) {
	nic, own, other := admin.Interface{Name: "eth0", Role: "nic"}, admin.Interface{Name: "fl-a.b.0", Role: "workload"}, admin.Interface{Name: "eth1", Role: "workload"}
	for _, tc := range []struct {
		interfaces []admin.Interface
		want       string
	}{
		{nil, "no interface of this host is touched"},
		{[]admin.Interface{own}, "no interface of this host is touched"},
		{[]admin.Interface{own, other}, "not for the network"},
		{[]admin.Interface{own, other, nic}, ""},
	} {
		if got := reach(tc.interfaces); !strings.Contains(got, tc.want) || tc.want == "" && got != "" {
			t.Errorf("%v: %q, want %q", tc.interfaces, got, tc.want)
		}
	}
}

func TestUnknownFactIsNotMissing(t *testing.T) {
	facts := []attach.Fact{{Name: "TC programs", Unknown: true, Value: "unknown", Fix: "run the doctor as root"}}
	var b bytes.Buffer
	(&app{out: &b}).printFacts(facts)
	if m := missingFacts(facts); len(m) > 0 || !strings.HasPrefix(b.String(), "?") {
		t.Errorf("missing %q, shown\n%s", m, b.String())
	}
}

func TestWelcome(t *testing.T) {
	var b bytes.Buffer
	a := &app{out: &b}
	s := fullStatus()
	s.Interfaces, s.Targets, s.Config.Error, s.Problems = nil, nil, "", nil
	s.Judge()
	a.welcome(s, fullServices(), defaultRun)
	want := `
fairlead is running: 2 services, 1 replica, all targets at generation 4

  ◐  shop/web  198.18.0.10:90/tcp    → 1 of 2 replicas  curl http://198.18.0.10:90/
               198.18.0.10:53/udp    → 1 of 2 replicas  echo hello | nc -u -w1 198.18.0.10 53
  ○  shop/db   198.18.0.11:5432/tcp  → no replica yet

  the addresses answer on this host and in its replicas; no interface of this host is touched (node.interfaces is empty)

not served yet: the config asks for it, this version does not do it
  expose.http  a/u, b/u, c/u, d/u and 2 more
  listen.dns

look with  fairlead status
stop with  Ctrl-C or kill 7

`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	a.welcome(s, []admin.Service{}, "/tmp/x")
	if !strings.Contains(b.String(), "no services: add one") || !strings.Contains(b.String(), "fairlead status --run /tmp/x") {
		t.Errorf("without services:\n%s", b.String())
	}
}
