// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func drainState() *model.State {
	b := func(s string) model.Backend { return model.Backend{Addr4: netip.MustParseAddr(s), Weight: 1} }
	svc := func(project string, port uint16, bs ...model.Backend) *model.Service {
		return &model.Service{
			Name: model.ServiceName{Project: project, User: "u"}, Backends: bs, Drain: 30 * time.Second,
			Ports: []model.Port{{Service: 80, Container: port, Protocol: model.TCP}},
		}
	}
	return &model.State{Generation: 1, Services: []*model.Service{
		svc("a", 8080, b("10.1.0.2"), b("10.1.0.3")), svc("b", 9090, b("10.1.0.2")),
	}}
}

func newDrains(t *testing.T, path string) *Drains {
	t.Helper()
	d, err := NewDrains(DrainsConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDrainsArePublishedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drains.json")
	d := newDrains(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	parts := make(chan source.Part, 4)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, func(p source.Part) { parts <- p }) }()
	if p := <-parts; len(p.Conditions) != 0 {
		t.Fatalf("first part: %v", p)
	}
	res, err := d.Set(drainState(), DrainRequest{Address: "10.1.0.2"})
	if err != nil {
		t.Fatal(err)
	}
	want := DrainResult{Address: "10.1.0.2", Draining: true, Changed: true, Services: []DrainedService{
		{Service: "a/u", Left: 1, Drain: "30s"}, {Service: "b/u", Left: 0, Drain: "30s"},
	}}
	if diff := cmp.Diff(want, res); diff != "" {
		t.Error(diff)
	}
	wantPart := []source.Condition{{Addr: netip.MustParseAddr("10.1.0.2"), Condition: model.Draining}}
	if p := <-parts; len(p.Conditions) != 1 || p.Conditions[0] != wantPart[0] {
		t.Errorf("published %v, want %v", p.Conditions, wantPart)
	}
	cancel()
	<-done

	again := newDrains(t, path)
	if diff := cmp.Diff([]string{"10.1.0.2"}, again.List()); diff != "" {
		t.Error(diff)
	}
	if res, err := again.Set(drainState(), DrainRequest{Address: "10.1.0.2"}); err != nil || res.Changed {
		t.Errorf("same drain again: %+v, %v; want nothing changed", res, err)
	}
	if res, err := again.Set(drainState(), DrainRequest{Address: "10.1.0.2", Undo: true}); err != nil || res.Draining || res.Services[0].Left != 2 {
		t.Errorf("undo: %+v, %v", res, err)
	}
	if l := newDrains(t, path).List(); len(l) != 0 {
		t.Errorf("kept after undo: %v", l)
	}
}

func TestDrainOfOnePort(t *testing.T) {
	d := newDrains(t, filepath.Join(t.TempDir(), "drains.json"))
	res, err := d.Set(drainState(), DrainRequest{Address: "10.1.0.2:9090"})
	if err != nil || len(res.Services) != 1 || res.Services[0].Service != "b/u" {
		t.Errorf("got %+v, %v; want service b/u alone", res, err)
	}
	if diff := cmp.Diff([]string{"10.1.0.2:9090"}, d.List()); diff != "" {
		t.Error(diff)
	}
}

func TestDrainOfTheUnknown(t *testing.T) {
	d := newDrains(t, filepath.Join(t.TempDir(), "drains.json"))
	for _, tc := range []struct {
		r    DrainRequest
		want string
	}{
		{DrainRequest{Address: "10.9.9.9"}, "there is 10.1.0.2, 10.1.0.3"},
		{DrainRequest{Address: "10.1.0.2:1"}, "no container port 1: there is 8080, 9090"},
		{DrainRequest{Address: "10.1.0.2", Undo: true}, "is not drained: nothing is"},
		{DrainRequest{Address: "web"}, "want ADDRESS or ADDRESS:PORT"},
		{DrainRequest{Address: "10.1.0.2:0"}, "want ADDRESS or ADDRESS:PORT"},
	} {
		if _, err := d.Set(drainState(), tc.r); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.r, err, tc.want)
		}
	}
	if _, err := d.Set(&model.State{}, DrainRequest{Address: "10.9.9.9"}); !errors.Is(err, ErrUnknownAddress) {
		t.Errorf("error %v, want ErrUnknownAddress", err)
	}
	if l := d.List(); len(l) != 0 {
		t.Errorf("drained: %v", l)
	}
}

func TestDrainThatCannotBeKept(t *testing.T) {
	d := newDrains(t, filepath.Join(t.TempDir(), "gone", "drains.json"))
	if _, err := d.Set(drainState(), DrainRequest{Address: "10.1.0.2"}); err == nil || len(d.List()) != 0 {
		t.Errorf("error %v, drained %v; want an error and nothing drained", err, d.List())
	}
}

func TestInvalidDrainsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "drains.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l := newDrains(t, path).List(); len(l) != 0 {
		t.Errorf("drained: %v", l)
	}
	if _, err := os.Stat(path + ".invalid"); err != nil {
		t.Errorf("the invalid file was not kept: %v", err)
	}
}

func TestParseDrain(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.0.2": "10.1.0.2", "::ffff:10.1.0.2": "10.1.0.2", "[fd00::2]:80": "[fd00::2]:80", "[fd00::2]": "fd00::2", "fd00::2": "fd00::2",
	} {
		if d, err := parseDrain(in); err != nil || d.String() != want {
			t.Errorf("%s: %v, %v; want %s", in, d, err, want)
		}
	}
}
