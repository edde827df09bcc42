// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeTrace is a data plane that traces.
type fakeTrace struct {
	asked chan TraceQuery
	ended chan struct{}
	// tell is what it says until it blocks.
	tell func(yield func([]TraceEvent, uint64) bool) error
}

func newFakeTrace(tell func(yield func([]TraceEvent, uint64) bool) error) *fakeTrace {
	return &fakeTrace{asked: make(chan TraceQuery, 1), ended: make(chan struct{}), tell: tell}
}

func (f *fakeTrace) trace(ctx context.Context, q TraceQuery, yield func([]TraceEvent, uint64) bool) error {
	defer close(f.ended)
	f.asked <- q
	if err := f.tell(yield); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func (f *fakeTrace) waitEnd(t *testing.T) {
	t.Helper()
	select {
	case <-f.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the agent still traces 10 s later")
	}
}

func viewsTracing(f *fakeTrace) Views {
	v := testViews()
	v.Trace = f.trace
	return v
}

var testEvents = []TraceEvent{
	{
		Time: time.Date(2026, 11, 21, 12, 0, 0, 1000, time.UTC), Interface: "eth0", Hook: "xdp", Verdict: "forward", Reason: "forwarded",
		Help: "client to backend", Service: "test/user", Protocol: "tcp", Flags: "SYN", Length: 74,
		Src: netip.MustParseAddrPort("192.0.2.1:40000"), Dst: netip.MustParseAddrPort("198.18.0.10:90"),
		Became: &Tuple{Src: netip.MustParseAddrPort("192.0.2.1:40000"), Dst: netip.MustParseAddrPort("10.1.0.2:8090")},
	},
	{Interface: "eth0", Hook: "tc", Verdict: "pass", Reason: "not_ip", Help: "neither IPv4 nor IPv6", Length: 60},
}

func TestTraceIsStreamed(t *testing.T) {
	more := make(chan struct{})
	f := newFakeTrace(func(yield func([]TraceEvent, uint64) bool) error {
		_ = yield(nil, 0) && yield(testEvents[:1], 0)
		<-more // nothing more is told until the client has seen the first
		_ = yield(testEvents[1:], 7)
		return nil
	})
	c, _ := start(t, viewsTracing(f))
	var got []TraceEvent
	var lost []uint64
	q := TraceQuery{Service: "Тест/user", Client: netip.MustParseAddr("192.0.2.1"), Drops: true, All: true}
	err := c.Trace(t.Context(), q, func(e *TraceEvent, n uint64) bool {
		lost = append(lost, n)
		if e == nil {
			return n == 0
		}
		if got = append(got, *e); len(got) == 1 {
			close(more)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	same := []cmp.Option{
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	}
	if diff := cmp.Diff(testEvents, got, same...); diff != "" {
		t.Errorf("events differ after the wire:\n%s", diff)
	}
	if diff := cmp.Diff([]uint64{0, 0, 0, 7}, lost); diff != "" {
		t.Errorf("lost, call by call:\n%s", diff)
	}
	q.Service = "test/user"
	if diff := cmp.Diff(q, <-f.asked, same...); diff != "" {
		t.Errorf("the query differs after the wire:\n%s", diff)
	}
	f.waitEnd(t) // the client is gone
}

func TestTraceErrors(t *testing.T) {
	seen := func(*TraceEvent, uint64) bool { return true }
	t.Run("one at a time", func(t *testing.T) {
		f := newFakeTrace(func(func([]TraceEvent, uint64) bool) error { return ErrTracing })
		c, _ := start(t, viewsTracing(f))
		if err := c.Trace(t.Context(), TraceQuery{}, seen); err == nil || err.Error() != ErrTracing.Error() {
			t.Errorf("%v, want %v", err, ErrTracing)
		}
	})
	t.Run("in the middle", func(t *testing.T) {
		f := newFakeTrace(func(yield func([]TraceEvent, uint64) bool) error {
			yield(testEvents, 0)
			return errors.New("ring went away")
		})
		c, _ := start(t, viewsTracing(f))
		if err := c.Trace(t.Context(), TraceQuery{}, seen); err == nil || err.Error() != "ring went away" {
			t.Errorf("%v, want that of the agent", err)
		}
	})
	t.Run("wrong use", func(t *testing.T) {
		c, _ := start(t, testViews())
		for path, want := range map[string]string{
			"/v1/trace?client=x":        `client "x": want an IP address`,
			"/v1/trace?drops=perhaps":   `drops "perhaps": want true or false`,
			"/v1/trace?service=no/such": "no service",
		} {
			if _, err := c.call(t.Context(), "GET", path, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
		}
	})
}

// A client that goes, and an agent that stops, end the trace.
func TestTraceEnds(t *testing.T) {
	tell := func(yield func([]TraceEvent, uint64) bool) error { yield(nil, 0); return nil }
	t.Run("with its client", func(t *testing.T) {
		f := newFakeTrace(tell)
		c, _ := start(t, viewsTracing(f))
		ctx, cancel := context.WithCancel(t.Context())
		err := c.Trace(ctx, TraceQuery{}, func(*TraceEvent, uint64) bool { cancel(); return true })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}
		f.waitEnd(t)
	})
	t.Run("with the agent", func(t *testing.T) {
		f := newFakeTrace(tell)
		dir := t.TempDir()
		srv, err := Listen(ServerConfig{RunDir: dir, Views: viewsTracing(f)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- srv.Run(ctx) }()
		c := NewClient(dir)
		defer c.Close()
		err = c.Trace(t.Context(), TraceQuery{}, func(*TraceEvent, uint64) bool { stop(); return true })
		if err == nil || !strings.Contains(err.Error(), "the agent ended the trace") {
			t.Errorf("%v, want that the agent ended it", err)
		}
		f.waitEnd(t)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
