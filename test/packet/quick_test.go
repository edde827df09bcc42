// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
)

// watched makes a second plane on which somebody traces: its packets take none
// of the short ways of bpf/lib/quick.h.
func watched(t *testing.T) *plane {
	t.Helper()
	p := newPlane(t)
	ctx, stop := context.WithCancel(t.Context())
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		nobody := bpf.TraceFilter{Client: netip.MustParseAddr("192.0.2.255")}
		first := true
		ended <- p.objects.Trace(ctx, nobody, func([]bpf.TraceEvent, uint64) bool {
			if first {
				close(started)
				first = false
			}
			return true
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("trace: %v", err)
		}
	})
	select {
	case <-started:
	case err := <-ended:
		ended <- nil
		t.Fatalf("trace ended before it began: %v", err)
	}
	return p
}

// The short way of most packets and the long one are the same: the same frames,
// whole and mutated, on two planes of which one may not take it, get the same
// verdicts and bytes, and are counted as the same.
func TestShortWayIsTheLongWay(t *testing.T) {
	const n = 30_000
	eachHook(t, func(short *plane, h hook) {
		long := watched(t)
		planes := []*plane{short, long}
		for _, p := range planes {
			p.apply(web())
			p.moved()
		}
		r := rand.New(rand.NewPCG(56, 78))
		seeds := append(corpus(t), midway(t)...)
		sent := map[uint32]int{}
		for i := range n {
			in := seeds[r.IntN(len(seeds))]
			if i%4 != 0 {
				in = mutate(r, in)
			}
			if h.name == "tc" && len(in) < 14+40 {
				continue // a TC test run refuses frames shorter than their IP header itself
			}
			verdict, out := short.send(h.prog(short), bytes.Clone(in))
			want, wantOut := long.send(h.prog(long), bytes.Clone(in))
			if verdict != want || !bytes.Equal(out, wantOut) {
				t.Fatalf("frame %d: verdict %d and\n%swant %d and\n%sof\n%s", i,
					int32(verdict), hex.Dump(out), int32(want), hex.Dump(wantOut), hex.Dump(in))
			}
			sent[verdict]++
		}
		if diff := cmp.Diff(long.moved(), short.moved()); diff != "" {
			t.Errorf("counters (-long +short):\n%s", diff)
		}
		if diff := cmp.Diff(served(long), served(short)); diff != "" {
			t.Errorf("counters of the services (-long +short):\n%s", diff)
		}
		if sent[h.out] < n/10 || sent[h.pass] < n/10 {
			t.Errorf("verdicts %v: too few of a kind to compare anything", sent)
		}
	})
}

// midway are packets of connections that no SYN was seen of, which would keep
// them off the short way for a while.
func midway(t *testing.T) (out [][]byte) {
	for i := range 8 {
		data, data6 := request4(), request6()
		for _, f := range []*frame{&data, &data6} {
			f.tcp, f.sport = ack(), clientPort+1+uint16(i)
			f.payload = make([]byte, 200*i)
			out = append(out, f.bytes(t))
		}
	}
	return out
}

// served is what the services have carried so far.
func served(p *plane) []dataplane.ServiceCount {
	p.Helper()
	stats, err := p.target.Stats()
	if err != nil {
		p.Fatal(err)
	}
	slices.SortFunc(stats.Services, func(a, b dataplane.ServiceCount) int { return int(a.Port.Service) - int(b.Port.Service) })
	return stats.Services
}
