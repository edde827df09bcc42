// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

const stickyVIP4, stickyBack4 = "198.18.0.11", "10.1.0.3"

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
		begin, seeds := midway(t)
		seeds = append(seeds, corpus(t)...)
		for _, p := range planes {
			sticky := service("sticky", stickyVIP4, "", webPorts, stickyBack4)
			sticky.Balance = model.Balance{Affinity: "client-ip"}
			p.apply(web(), sticky)
			p.moved()
			for _, in := range begin {
				p.send(h.prog(p), in)
			}
		}
		r := rand.New(rand.NewPCG(56, 78))
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
		if diff := gocmp.Diff(long.moved(), short.moved()); diff != "" {
			t.Errorf("counters (-long +short):\n%s", diff)
		}
		if diff := gocmp.Diff(served(long), served(short)); diff != "" {
			t.Errorf("counters of the services (-long +short):\n%s", diff)
		}
		if sent[h.out] < n/10 || sent[h.pass] < n/10 {
			t.Errorf("verdicts %v: too few of a kind to compare anything", sent)
		}
	})
}

// midway are packets in both directions of connections to web and sticky, which
// are made first, and some of connections that no SYN was seen of.
func midway(t *testing.T) (begin, out [][]byte) {
	for i := range 8 {
		for _, to := range []struct{ client, vip, back string }{
			{client4, vip4, back4}, {client6, vip6, back6}, {client4, stickyVIP4, stickyBack4},
		} {
			request := frame{src: to.client, dst: to.vip, sport: clientPort + 1 + uint16(i), dport: 90, tcp: syn()}
			reply := frame{src: to.back, dst: to.client, sport: 8090, dport: request.sport, tcp: synAck()}
			if i > 0 {
				begin = append(begin, request.bytes(t), reply.bytes(t))
			}
			request.tcp, reply.tcp = ack(), ack()
			if i > 0 {
				begin = append(begin, request.bytes(t), reply.bytes(t))
			}
			request.payload = make([]byte, 200*i)
			reply.payload = request.payload
			out = append(out, request.bytes(t), reply.bytes(t))
		}
		query := datagram4()
		query.sport = clientPort + 1 + uint16(i)
		answer := frame{src: back4, dst: client4, sport: 5353, dport: query.sport, udp: true, payload: []byte("answer")}
		begin = append(begin, query.bytes(t), answer.bytes(t))
		out = append(out, query.bytes(t), answer.bytes(t))
	}
	return begin, out
}

// served is what the services have carried so far. Without the connections: the
// short way takes a SYN on the tuple of a live connection for a new one, until
// its backend says otherwise.
func served(p *plane) []dataplane.ServiceCount {
	p.Helper()
	stats, err := p.target.Stats()
	if err != nil {
		p.Fatal(err)
	}
	for i := range stats.Services {
		stats.Services[i].Connections = 0
	}
	slices.SortFunc(stats.Services, func(a, b dataplane.ServiceCount) int {
		return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Port.Service, b.Port.Service))
	})
	return stats.Services
}
