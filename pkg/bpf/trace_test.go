// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

var tiny = Config{Services: 64, Backends: 64, Slots: 1024, Flows: 1024, Embryos: 1024}

// tracing reads the switch.
func tracing(t *testing.T, o *Objects) (mask uint64) {
	t.Helper()
	if err := o.trace.on.Get(&mask); err != nil {
		t.Fatal(err)
	}
	return mask
}

// pass sends a frame through the XDP program that is nobody's.
func pass(t *testing.T, o *Objects) {
	t.Helper()
	if _, err := o.Programs().XDP.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
		t.Fatal(err)
	}
}

func TestOneTraceAtATime(t *testing.T) {
	o := open(t, tiny)
	if tracing(t, o) != 0 {
		t.Fatal("tracing is on before anybody asked")
	}
	seen := 0
	err := o.Trace(t.Context(), TraceFilter{}, func(events []TraceEvent, _ uint64) bool {
		if events != nil {
			seen += len(events)
			return false
		}
		if got, want := tracing(t, o), uint64(1)<<len(Reasons)-1; got != want {
			t.Errorf("switch %#x, want %#x: every reason", got, want)
		}
		err := o.Trace(t.Context(), TraceFilter{}, func([]TraceEvent, uint64) bool { return false })
		if !errors.Is(err, ErrTracing) {
			t.Errorf("a second trace: %v, want ErrTracing", err)
		}
		pass(t, o)
		return true
	})
	if err != nil || seen != 1 {
		t.Errorf("%d events, %v; want one", seen, err)
	}
	if got := tracing(t, o); got != 0 {
		t.Errorf("switch %#x after the trace, want 0", got)
	}
}

// Whatever ends a trace turns tracing off and forgets what was watched.
func TestTraceIsOffAfterwards(t *testing.T) {
	o := open(t, tiny)
	filter := TraceFilter{
		Ends:   func() []ServiceKey { return []ServiceKey{{VIP: netip.MustParseAddr("198.18.0.1")}} },
		Reason: func(r Reason) bool { return r.Verdict == Drop },
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := o.Trace(ctx, filter, func([]TraceEvent, uint64) bool {
		calls++
		if tracing(t, o)&1 != 0 {
			t.Error("not_ours is told though only drops were asked for")
		}
		cancel()
		return true
	})
	if err != nil || calls != 1 {
		t.Errorf("%d calls, %v; want the first alone", calls, err)
	}
	if got := tracing(t, o); got != 0 {
		t.Errorf("switch %#x after the trace, want 0", got)
	}
	var (
		key  lbServiceKey
		mark uint32
	)
	if it := o.maps[lbMapFlTraceEnds].Iterate(); it.Next(&key, &mark) {
		t.Errorf("still watched: %+v", serviceKeyOf(key))
	}
}

// A killed agent's programs go on without it: they turn tracing off.
func TestTraceEndsWithItsAgent(t *testing.T) {
	o := open(t, tiny)
	if err := o.trace.on.Set(uint64(1)<<len(Reasons) - 1); err != nil {
		t.Fatal(err)
	}
	if err := o.trace.until.Set(uint64(monotonic() - 1)); err != nil {
		t.Fatal(err)
	}
	pass(t, o)
	if got := tracing(t, o); got != 0 {
		t.Errorf("switch %#x after a packet past the end, want 0", got)
	}
}

// Tracing state is not pinned: the next agent begins without.
func TestTraceIsNotKept(t *testing.T) {
	for _, name := range []string{lbMapFlTraces, lbMapFlTraceEnds} {
		if keepsOver(name) {
			t.Errorf("%s outlives the agent", name)
		}
	}
}
