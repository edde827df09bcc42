// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// ErrTracing is returned by Trace while another one is under way.
var ErrTracing = errors.New("somebody traces already")

const (
	// traceLease is how long the programs go on after the last sign of life.
	// Programs that outlive a killed agent switch tracing off themselves.
	traceLease = 5 * time.Second
	traceRenew = time.Second
	// traceTick bounds how late the end of a context is seen.
	traceTick = 100 * time.Millisecond
	// traceWait is for a trace that is ending.
	traceWait  = 5 * traceTick
	traceBatch = 256 // events at most that yield is given at once

	traceEventSize = unsafe.Sizeof(lbTraceEvent{})
)

// Conditions of a trace_filter (enum in bpf/lib/trace.h).
const (
	traceClient = 1 << iota
	traceEnds
)

// TraceFilter says which packets a trace tells of: those that meet every
// condition that is set.
type TraceFilter struct {
	// Client is the source or the destination of the packet as it arrives.
	Client netip.Addr
	// Ends lists what the packet comes from or goes to, as it arrives; port 0
	// with protocol 0 is any of the address. It is asked again every second.
	// nil: anything.
	Ends func() []ServiceKey
	// Reason tells which ways out are of interest. nil: all.
	Reason func(Reason) bool
}

// TraceEvent is what one program did with one packet.
type TraceEvent struct {
	Time    time.Time
	IfIndex uint32  // where it arrived
	TC      bool    // which program: TC or XDP
	Reason  Reason  // how it left
	Key     FlowKey // as it arrived; invalid addresses: they could not be read

	// Src and Dst are the tuple it left with; invalid if it was not translated.
	Src, Dst netip.AddrPort

	TCPFlags uint8
	ICMPType uint8
	Bytes    int // of the whole frame, as it arrived
}

// traceVars are the variables of bpf/lib/trace.h.
type traceVars struct {
	turn                    chan struct{} // holds one while somebody traces
	on, until, lost, filter *ebpf.Variable
}

func (v *traceVars) take(vars map[string]*ebpf.Variable) {
	if v.turn == nil {
		v.turn = make(chan struct{}, 1)
	}
	for name, to := range map[string]**ebpf.Variable{
		lbVarFlTraceOn: &v.on, lbVarFlTraceUntil: &v.until, lbVarFlTraceLost: &v.lost, lbVarFlTraceFilter: &v.filter,
	} {
		if found := vars[name]; found != nil {
			*to = found
		}
	}
}

// Trace tells of packets as they leave the programs, until yield returns false
// or ctx ends, which is no error. yield is called once without events when
// tracing is on, then with events, and with how many were lost so far because it
// was too slow; it keeps nothing of the slice. Only one trace at a time: others
// get ErrTracing.
func (o *Objects) Trace(ctx context.Context, f TraceFilter, yield func(events []TraceEvent, lost uint64) bool) (err error) {
	select {
	case o.trace.turn <- struct{}{}:
	case <-ctx.Done():
		return nil
	case <-time.After(traceWait):
		return ErrTracing
	}
	defer func() { <-o.trace.turn }()
	r, err := ringbuf.NewReader(o.maps[lbMapFlTraces])
	if err != nil {
		return fmt.Errorf("trace: open ring buffer: %w", err)
	}
	defer r.Close()
	t := &tracer{o: o, filter: f, r: r, wall: time.Now(), begun: monotonic(), events: make([]TraceEvent, 0, traceBatch)}
	t.wall = t.wall.Add(-t.begun) // read first: no event is of the future
	defer func() { err = errors.Join(err, t.stop()) }()
	if err := t.start(); err != nil {
		return err
	}
	for more := yield(nil, 0); more && ctx.Err() == nil; {
		if err := t.renew(); err != nil {
			return err
		}
		if err := t.read(); err != nil {
			return err
		}
		lost, err := t.lost()
		if err != nil {
			return err
		}
		if len(t.events) > 0 || lost != t.told {
			t.told = lost
			more = yield(t.events, lost)
		}
	}
	return nil
}

// tracer is one trace under way.
type tracer struct {
	o      *Objects
	filter TraceFilter
	r      *ringbuf.Reader
	begun  time.Duration // what is older in the ring buffer is an earlier trace's
	wall   time.Time     // when the monotonic clock was 0
	next   time.Duration // when the lease is to be renewed
	ends   map[ServiceKey]bool
	told   uint64 // lost events that yield knows of
	record ringbuf.Record
	events []TraceEvent
}

// start sets the filter and turns tracing on.
func (t *tracer) start() error {
	f := lbTraceFilter{}
	if t.filter.Client.IsValid() {
		f.Match |= traceClient
		f.Client.W = toAddr(t.filter.Client)
	}
	if t.filter.Ends != nil {
		f.Match |= traceEnds
	}
	if err := t.o.trace.filter.Set(f); err != nil {
		return fmt.Errorf("trace: set filter: %w", err)
	}
	if err := t.o.trace.lost.Set(uint64(0)); err != nil {
		return fmt.Errorf("trace: reset count of lost events: %w", err)
	}
	return t.renew()
}

// renew turns tracing on, or moves its end on, if it is time to.
func (t *tracer) renew() error {
	now := monotonic()
	if now < t.next {
		return nil
	}
	t.next = now + traceRenew
	if t.filter.Ends != nil {
		if err := t.watch(t.filter.Ends()); err != nil {
			return err
		}
	}
	var mask uint64
	for i, r := range Reasons {
		if t.filter.Reason == nil || t.filter.Reason(r) {
			mask |= 1 << i
		}
	}
	if err := t.o.trace.until.Set(uint64(now + traceLease)); err != nil {
		return fmt.Errorf("trace: set end: %w", err)
	}
	if err := t.o.trace.on.Set(mask); err != nil {
		return fmt.Errorf("trace: switch on: %w", err)
	}
	return nil
}

// watch makes the list of ends in the kernel equal to this one.
func (t *tracer) watch(ends []ServiceKey) error {
	m := t.o.maps[lbMapFlTraceEnds]
	want := make(map[ServiceKey]bool, len(ends))
	for _, e := range ends {
		want[e] = true
		if t.ends[e] {
			continue
		}
		if err := m.Put(e.kernel(), uint32(1)); err != nil {
			return fmt.Errorf("trace: watch %s port %d: %w", e.VIP, e.Port, err)
		}
	}
	for e := range t.ends {
		if want[e] {
			continue
		}
		if err := m.Delete(e.kernel()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("trace: no longer watch %s port %d: %w", e.VIP, e.Port, err)
		}
	}
	t.ends = want
	return nil
}

// stop turns tracing off.
func (t *tracer) stop() error {
	if err := t.o.trace.on.Set(uint64(0)); err != nil {
		return fmt.Errorf("trace: switch off: %w", err)
	}
	return t.watch(nil)
}

// read takes what is in the ring buffer; if that is nothing it waits a tick.
func (t *tracer) read() error {
	t.events = t.events[:0]
	t.r.SetDeadline(time.Now().Add(traceTick))
	for len(t.events) < traceBatch {
		err := t.r.ReadInto(&t.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("trace: read ring buffer: %w", err)
		}
		if n := len(t.record.RawSample); n < int(traceEventSize) {
			return fmt.Errorf("trace: an event of %d bytes, want %d", n, traceEventSize)
		}
		e := (*lbTraceEvent)(unsafe.Pointer(&t.record.RawSample[0]))
		if time.Duration(e.Time) >= t.begun && int(e.Reason) < len(Reasons) {
			t.events = append(t.events, t.event(e))
		}
		if t.record.Remaining == 0 {
			return nil
		}
	}
	return nil
}

func (t *tracer) lost() (n uint64, err error) {
	if err := t.o.trace.lost.Get(&n); err != nil {
		return 0, fmt.Errorf("trace: read count of lost events: %w", err)
	}
	return n, nil
}

func (t *tracer) event(e *lbTraceEvent) TraceEvent {
	return TraceEvent{
		Time: t.wall.Add(time.Duration(e.Time)), IfIndex: e.Ifindex, TC: e.Tc != 0, Reason: Reasons[e.Reason],
		Key:      flowKeyOf(&e.Key),
		Src:      netip.AddrPortFrom(fromAddr(e.Src.W), swap16(e.Sport)),
		Dst:      netip.AddrPortFrom(fromAddr(e.Dst.W), swap16(e.Dport)),
		TCPFlags: e.TcpFlags, ICMPType: e.IcmpType, Bytes: int(e.Bytes),
	}
}

// monotonic is the clock of bpf_ktime_get_ns.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
