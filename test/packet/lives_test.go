// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// life is a connection of which both ends send what they like.
type life struct{ request, reply frame }

func lives(n int) []life {
	ends := []struct{ client, vip, back string }{
		{client4, vip4, back4}, {client6, vip6, back6}, {client4, stickyVIP4, stickyBack4},
	}
	out := make([]life, n)
	for i := range out {
		to, port := ends[i%len(ends)], clientPort+1+uint16(i)
		out[i] = life{
			request: frame{src: to.client, dst: to.vip, sport: port, dport: 90},
			reply:   frame{src: to.back, dst: to.client, sport: 8090, dport: port},
		}
	}
	return out
}

// segment is what may come next: of the client or of the backend, the right
// thing more often than not.
func (l life) segment(t *testing.T, r *rand.Rand) []byte {
	type side struct {
		from frame
		tcp  layers.TCP
	}
	client, backend := *ack(), layers.TCP{ACK: true, Seq: 5001, Ack: 1001, Window: 502}
	forged := client
	forged.Ack += 7
	fin, backFin := client, backend
	fin.FIN, backFin.FIN = true, true
	rst, backRst := client, backend
	rst.RST, backRst.RST = true, true
	bare := rst
	bare.ACK = false
	odd := client
	odd.SYN, odd.FIN = true, true
	all := []side{
		{l.reply, *synAck()},
		{l.reply, *synAck()},
		{l.reply, *synAck()},
		{l.request, client},
		{l.request, client},
		{l.request, client},
		{l.reply, backend},
		{l.reply, backend},
		{l.request, fin},
		{l.reply, backFin},
		{l.request, forged},
		{l.request, rst},
		{l.reply, backRst},
		{l.request, bare},
		{l.request, odd},
		{l.request, *synAck()},
	}
	next := all[r.IntN(len(all))]
	next.from.tcp = &next.tcp
	return next.from.bytes(t)
}

// table are the flow entries of a plane, without their time, and how many there
// are in each state.
func table(p *plane) (out map[string]string, states map[uint8]int) {
	p.Helper()
	out, states = map[string]string{}, map[uint8]int{}
	err := p.objects.EachFlow(func(k bpf.FlowKey, f bpf.Flow, confirmed bool) bool {
		f.Seen = 0
		states[f.State]++
		out[fmt.Sprint(k, confirmed)] = fmt.Sprintf("%+v", f)
		return true
	})
	if err != nil {
		p.Fatal(err)
	}
	return out, states
}

// The short way does to a connection's entry what the long one does, whatever its
// two ends send and in whatever order: handshakes that are answered, confirmed,
// forged, given up, and ends of either side (issue 3, 6).
func TestShortWayKeepsTheSameFlows(t *testing.T) {
	const n, segments = 600, 9000
	bothWays(t, func(short *plane, r *rand.Rand, both func([]byte)) {
		all := lives(n)
		for _, l := range all {
			l.request.tcp = syn()
			both(l.request.bytes(t))
		}
		for range segments {
			both(all[r.IntN(n)].segment(t, r))
		}
		got, states := table(short)
		if len(got) < n/2 || len(states) < 8 {
			t.Errorf("%d entries in states %v: too few to compare anything", len(got), states)
		}
	})
}

// The same of datagrams: those that nobody answers, questions and answers, and
// conversations.
func TestShortWayKeepsTheSameDatagrams(t *testing.T) {
	const n, datagrams = 600, 1800
	bothWays(t, func(short *plane, r *rand.Rand, both func([]byte)) {
		all := lives(n)
		for range datagrams {
			l := all[r.IntN(n)]
			from := l.request
			from.dport = 53
			if r.IntN(3) == 0 {
				from = l.reply
				from.sport = 5353
			}
			from.udp = true
			both(from.bytes(t))
		}
		type kind struct {
			answered, confirmed bool
		}
		kinds := map[kind]int{}
		err := short.objects.EachFlow(func(_ bpf.FlowKey, f bpf.Flow, confirmed bool) bool {
			kinds[kind{f.State&bpf.FlowAnswered != 0, confirmed}]++
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range []kind{{false, false}, {true, false}, {true, true}} {
			if kinds[k] < n/10 {
				t.Errorf("%d entries of %+v: too few to compare anything", kinds[k], k)
			}
		}
	})
}

// bothWays has two planes get the same frames, of which the second has all go
// the long way, and compares what becomes of them, the flows and the counters.
func bothWays(t *testing.T, play func(short *plane, r *rand.Rand, both func([]byte))) {
	eachHook(t, func(short *plane, h hook) {
		long := watched(t)
		for _, p := range []*plane{short, long} {
			sticky := service("sticky", stickyVIP4, "", webPorts, stickyBack4)
			sticky.Balance = model.Balance{Affinity: "client-ip"}
			p.apply(web(), sticky)
			p.moved()
		}
		both := func(in []byte) {
			t.Helper()
			verdict, out := short.send(h.prog(short), bytes.Clone(in))
			want, wantOut := long.send(h.prog(long), bytes.Clone(in))
			if verdict != want || !bytes.Equal(out, wantOut) {
				t.Fatalf("verdict %d and\n%swant %d and\n%sof\n%s", int32(verdict), hex.Dump(out), int32(want), hex.Dump(wantOut), hex.Dump(in))
			}
		}
		play(short, rand.New(rand.NewPCG(31, 7)), both)
		want, _ := table(long)
		got, _ := table(short)
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("flows (-long +short):\n%s", diff)
		}
		if diff := gocmp.Diff(long.moved(), short.moved()); diff != "" {
			t.Errorf("counters (-long +short):\n%s", diff)
		}
	})
}
