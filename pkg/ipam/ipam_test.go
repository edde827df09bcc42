// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock goes on by a minute at every look.
func clock() func() time.Time {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return func() time.Time { now = now.Add(time.Minute); return now }
}

func open(path string) *Pool {
	return New(Config{Path: path, Log: slog.New(slog.DiscardHandler), Now: clock()})
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func mustAllocate(t *testing.T, p *Pool, from, owner, want string) {
	t.Helper()
	if a, err := p.Allocate(prefix(from), owner); err != nil || a.String() != want {
		t.Errorf("Allocate(%s, %s) = %s, %v; want %s", from, owner, a, err, want)
	}
}

func TestAllocateSkipsReservedAndKeepsOverRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "ips.json")
	p := open(path)
	mustAllocate(t, p, "10.0.0.0/29", "a", "10.0.0.2")
	mustAllocate(t, p, "10.0.0.0/29", "b", "10.0.0.3")
	mustAllocate(t, p, "fd00::/112", "a", "fd00::2")
	mustAllocate(t, p, "10.0.0.0/29", "a", "10.0.0.2")
	p = open(path)
	mustAllocate(t, p, "10.0.0.0/29", "c", "10.0.0.4")
	mustAllocate(t, p, "10.0.0.0/29", "b", "10.0.0.3")
	mustAllocate(t, p, "fd00::/112", "a", "fd00::2")
	if err := p.Err(); err != nil {
		t.Error(err)
	}
}

func TestExhaustionReusesTheLongestGone(t *testing.T) {
	p := open("")
	for i, owner := range []string{"a", "b", "c", "d", "e"} {
		mustAllocate(t, p, "10.0.0.0/29", owner, fmt.Sprintf("10.0.0.%d", i+2))
	}
	_, err := p.Allocate(prefix("10.0.0.0/29"), "f")
	if want := "prefix 10.0.0.0/29 is used up: all of its 5 addresses are taken; use a wider one"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	p.Release("d")
	p.Release("b")
	mustAllocate(t, p, "10.0.0.0/29", "d", "10.0.0.5") // returned
	mustAllocate(t, p, "10.0.0.0/29", "f", "10.0.0.3")
	p.Retain([]string{"a", "c", "f"})
	mustAllocate(t, p, "10.0.0.0/29", "b", "10.0.0.5")
	mustAllocate(t, p, "10.0.0.0/29", "g", "10.0.0.6")
}

func TestPrefixesWithoutAddresses(t *testing.T) {
	p := open("")
	for _, s := range []string{"10.0.0.0/30", "10.0.0.0/31", "10.0.0.1/32", "fd00::/127", "fd00::1/128"} {
		a, err := p.Allocate(prefix(s), "a")
		var exhausted *ExhaustedError
		if s == "10.0.0.0/30" {
			if err != nil || a.String() != "10.0.0.2" {
				t.Errorf("%s: %s, %v", s, a, err)
			}
		} else if !errors.As(err, &exhausted) {
			t.Errorf("%s: %s, %v", s, a, err)
		}
	}
	mustAllocate(t, p, "255.255.255.252/30", "z", "255.255.255.254")
}

func TestReserve(t *testing.T) {
	p := open("")
	mustAllocate(t, p, "10.0.0.0/29", "a", "10.0.0.2")
	addr := netip.MustParseAddr("10.0.0.2")
	if err := p.Reserve(addr, "b"); err == nil || err.Error() != "10.0.0.2 is taken by a" {
		t.Errorf("error %v", err)
	}
	p.Release("a")
	if err := p.Reserve(addr, "b"); err != nil {
		t.Error(err)
	}
	mustAllocate(t, p, "10.0.0.0/29", "a", "10.0.0.3")
}

func TestCorruptFileIsMovedAside(t *testing.T) {
	for _, content := range []string{
		"{", `{"version":7}`, `{"version":1,"addresses":[{"addr":"10.0.0.2","owner":""}]}`,
		`{"version":1,"addresses":[{"addr":"10.0.0.2","owner":"a"},{"addr":"10.0.0.3","owner":"a"}]}`,
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "ips.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p := open(path)
		mustAllocate(t, p, "10.0.0.0/29", "b", "10.0.0.2")
		aside, _ := filepath.Glob(path + ".corrupt-*")
		if len(aside) != 1 {
			t.Fatalf("%s: moved to %v", content, aside)
		}
		if b, err := os.ReadFile(aside[0]); err != nil || string(b) != content {
			t.Errorf("aside is %q, %v", b, err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := open(filepath.Join(blocked, "ips.json"))
	mustAllocate(t, p, "10.0.0.0/29", "a", "10.0.0.2")
	mustAllocate(t, p, "10.0.0.0/29", "b", "10.0.0.3")
	if p.Err() == nil {
		t.Error("no error")
	}
	if err := p.Complete(&model.State{}); err == nil || !strings.Contains(err.Error(), "save addresses to") {
		t.Errorf("Complete: %v", err)
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	mustAllocate(t, p, "10.0.0.0/29", "b", "10.0.0.3") // back again: something to write
	if err := p.Err(); err != nil {
		t.Errorf("still: %v", err)
	}
}

// state makes services of "name" or "name=vip".
func state(v4, v6 string, services ...string) *model.State {
	s := &model.State{}
	s.Settings.Network.Services = prefix(v4)
	if v6 != "" {
		s.Settings.Network.Services6 = prefix(v6)
	}
	for _, text := range services {
		name, vip, explicit := strings.Cut(text, "=")
		svc := &model.Service{Name: model.ServiceName{Project: "p", User: name}}
		if explicit {
			svc.VIP4 = netip.MustParseAddr(vip)
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

func vips(s *model.State) string {
	var out []string
	for i := range s.Services {
		svc := s.Services[i]
		out = append(out, fmt.Sprint(svc.Name.User, svc.VIPs()))
	}
	return strings.Join(out, " ")
}

func TestComplete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vips.json")
	p := open(path)
	for _, step := range []struct {
		what  string
		state *model.State
		want  string
		err   string
	}{
		{"first come", state("10.0.0.0/29", "fd00::/112", "a", "b"), "a[10.0.0.2 fd00::2] b[10.0.0.3 fd00::3]", ""},
		{"gone is remembered", state("10.0.0.0/29", "", "b"), "b[10.0.0.3]", ""},
		{"and returns", state("10.0.0.0/29", "fd00::/112", "a", "b"), "a[10.0.0.2 fd00::2] b[10.0.0.3 fd00::3]", ""},
		{"explicit wins", state("10.0.0.0/29", "", "a", "b", "c=10.0.0.2"), "a[10.0.0.4] b[10.0.0.3] c[10.0.0.2]", ""},
		{
			"who has it keeps it", state("10.0.0.0/29", "", "a=10.0.0.2", "b", "c=10.0.0.2"), "a[] b[10.0.0.3] c[10.0.0.2]",
			"service p/a: vip 10.0.0.2 is taken by service p/c",
		},
		{"outside", state("10.0.0.0/29", "", "a=192.0.2.1", "b", "c"), "a[192.0.2.1] b[10.0.0.3] c[10.0.0.2]", ""},
		{"new prefix", state("10.9.0.0/29", "", "a=192.0.2.1", "b", "c=10.0.0.2"), "a[192.0.2.1] b[10.9.0.2] c[10.0.0.2]", ""},
		{
			"used up", state("10.9.0.0/30", "", "b", "c", "d"), "b[10.9.0.2] c[] d[]",
			"service p/c: no vip: prefix 10.9.0.0/30 is used up: all of its 1 addresses are taken; use a wider one\n" +
				"service p/d: no vip: prefix 10.9.0.0/30 is used up: all of its 1 addresses are taken; use a wider one",
		},
	} {
		err := p.Complete(step.state)
		if got := vips(step.state); got != step.want {
			t.Errorf("%s: %s, want %s", step.what, got, step.want)
		}
		if diff := cmp.Diff(step.err, fmt.Sprint(errors.Join(err))); diff != "" && (step.err != "" || err != nil) {
			t.Errorf("%s: error (-want +got)\n%s", step.what, diff)
		}
		p = open(path) // as after a restart
	}
}

// An address of this host is refused with the interface's name, and is not
// allocated; it is given as soon as the host has it no more.
func TestLocalAddressesAreNoVIPs(t *testing.T) {
	addr := netip.MustParseAddr
	local := map[netip.Addr]string{addr("10.0.0.2"): "dummy0", addr("192.0.2.1"): "eth0"}
	var fault error
	p := New(Config{Local: func() (map[netip.Addr]string, error) { return local, fault }})
	err := p.Complete(state("10.0.0.0/29", "", "a=192.0.2.1", "b", "c=192.0.2.9"))
	s := state("10.0.0.0/29", "", "a=192.0.2.1", "b", "c=192.0.2.9")
	_ = p.Complete(s)
	if got, want := vips(s), "a[] b[10.0.0.3] c[192.0.2.9]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, want := range []string{"service p/a: vip 192.0.2.1", "interface eth0", "choose a vip"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
	// What a service had becomes the host's: it gets another one.
	local = map[netip.Addr]string{addr("10.0.0.3"): "dummy0"}
	s = state("10.0.0.0/29", "", "a=192.0.2.1", "b")
	if err := p.Complete(s); err != nil || vips(s) != "a[192.0.2.1] b[10.0.0.4]" {
		t.Errorf("got %s, %v", vips(s), err)
	}
	// What cannot be listed is as it was.
	fault = errors.New("injected")
	s = state("10.0.0.0/29", "", "a=10.0.0.3")
	if err := p.Complete(s); !errors.Is(err, fault) || vips(s) != "a[]" {
		t.Errorf("got %s, %v", vips(s), err)
	}
}

func TestSameStateTwiceWritesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vips.json")
	p := open(path)
	services := []string{"a", "b=10.0.0.4", "c"}
	if err := p.Complete(state("10.0.0.0/29", "", services...)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := p.Complete(state("10.0.0.0/29", "", services...)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("written again (%v)", err)
	}
}

func TestManyServicesAreFast(t *testing.T) {
	p := open("")
	s := state("198.18.0.0/16", "fd00::/112")
	for i := range 20000 {
		s.Services = append(s.Services, &model.Service{Name: model.ServiceName{Project: "p", User: fmt.Sprint(i)}})
	}
	begin := time.Now()
	if err := p.Complete(s); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"addresses":[{"addr":"10.0.0.2","owner":"a","gone":"2026-01-01T00:00:00Z"}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = open("").decode(b) })
}

// What did not change is the same value as before, and what was published
// stays as it was.
func TestCompleteKeepsWhatDidNotChange(t *testing.T) {
	p := open("")
	raw := state("10.0.0.0/24", "fd00::/112", "a", "b=10.0.0.9", "c")
	next := func(services ...*model.Service) *model.State {
		s := &model.State{Settings: raw.Settings, Services: services}
		if err := p.Complete(s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b, c := raw.Services[0], raw.Services[1], raw.Services[2]
	first := next(a, b, c)
	if a.VIP4.IsValid() {
		t.Fatal("the source's own value was changed")
	}
	changed := *b
	changed.Drain = 1
	second := next(a, &changed, c)
	third := next(a, c)
	if second.Services[0] != first.Services[0] || second.Services[2] != first.Services[2] || third.Services[0] != first.Services[0] || third.Services[1] != first.Services[2] {
		t.Error("a service that did not change is another value")
	}
	if got := second.Services[1]; got.Drain != 1 || got.VIP4 != first.Services[1].VIP4 || got.VIP6 != first.Services[1].VIP6 || first.Services[1].Drain != 0 {
		t.Errorf("changed to %+v", got)
	}
	moved := *b
	moved.VIP4 = netip.MustParseAddr("10.0.0.77")
	if got := next(a, &moved, c); got.Services[1].VIP4 != moved.VIP4 || got.Services[0] != first.Services[0] {
		t.Errorf("moved to %v", got.Services[1].VIPs())
	}
}
