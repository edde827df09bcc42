// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

const traceDeadline = 10 * time.Second

// traced tells what a trace with this filter saw while send ran. All of it is
// in the ring buffer when send returns, and is read at once: events beyond those
// wanted are seen too.
func (p *plane) traced(filter bpf.TraceFilter, want int, send func()) (events []bpf.TraceEvent) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), traceDeadline)
	defer cancel()
	on := false
	err := p.objects.Trace(ctx, filter, func(batch []bpf.TraceEvent, lost uint64) bool {
		if !on {
			on = true
			send()
		}
		events = append(events, batch...)
		if lost > 0 {
			p.Errorf("%d events lost", lost)
		}
		return len(events) < want
	})
	if err != nil {
		p.Fatal(err)
	}
	return events
}

// pour runs frames through a hook and does not look at what comes out.
func (p *plane) pour(h hook, frames ...frame) {
	p.Helper()
	for _, f := range frames {
		p.send(h.prog(p), f.bytes(p))
	}
}

func reasonNamed(t testing.TB, name string) bpf.Reason {
	t.Helper()
	for _, r := range bpf.Reasons {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no reason %q", name)
	return bpf.Reason{}
}

func ends(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

// sameEvents compares events, wherever they were seen and when.
func (p *plane) sameEvents(h hook, want, got []bpf.TraceEvent) {
	p.Helper()
	now := time.Now()
	for i := range got {
		if d := now.Sub(got[i].Time); d < 0 || d > time.Minute {
			p.Errorf("event %d is %v old", i, d)
		}
		if got[i].IfIndex != wireIndex || got[i].TC != (h.name == "tc") {
			p.Errorf("event %d is of interface %d, TC %v; want %d and %s", i, got[i].IfIndex, got[i].TC, wireIndex, h.name)
		}
	}
	opts := []cmp.Option{
		cmpopts.IgnoreFields(bpf.TraceEvent{}, "Time", "IfIndex", "TC"),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateEmpty(),
	}
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		p.Errorf("events (-want +got)\n%s", diff)
	}
}

// A trace tells of every packet what it was, how it left and what it became.
func TestTraceTellsWhatHappens(t *testing.T) {
	const tcp, udp = uint8(model.TCP), uint8(model.UDP)
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		reply := func(f frame, back string, port uint16) frame {
			f.srcMAC, f.dstMAC = backMAC, nodeMAC
			f.src, f.dst, f.sport, f.dport = back, f.src, port, f.sport
			return f
		}
		answer4, answer6 := request4(), request6()
		answer4.tcp, answer6.tcp = synAck(), synAck()
		refused := request4()
		refused.dport = 91
		martian := request4()
		martian.src = "127.0.0.1"
		foreign := request6()
		foreign.dst = "2001:db8:9::1"
		ping := frame{src: client4, dst: vip4, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 3, Seq: 4}}
		tagged := request4()
		tagged.vlans = []uint16{7}
		frames := []frame{
			request4(), reply(answer4, back4, 8090), request6(), reply(answer6, back6, 8090), datagram4(),
			reply(datagram6(), back6, 9), refused, martian, foreign, ping, tagged,
		}
		type tuple = [2]netip.AddrPort
		event := func(i int, reason string, proto, flags, icmp uint8, from, became tuple) bpf.TraceEvent {
			return bpf.TraceEvent{
				Reason: reasonNamed(t, reason), Key: bpf.FlowKey{Src: from[0], Dst: from[1], Proto: proto},
				Src: became[0], Dst: became[1], TCPFlags: flags, ICMPType: icmp, Bytes: len(frames[i].bytes(t)),
			}
		}
		c4, c6 := ends(client4, clientPort), ends(client6, clientPort)
		web4, web6, b4, b6 := ends(vip4, 90), ends(vip6, 90), ends(back4, 8090), ends(back6, 8090)
		want := []bpf.TraceEvent{
			event(0, "forwarded", tcp, 0x02, 0, tuple{c4, web4}, tuple{c4, b4}),
			event(1, "replied", tcp, 0x12, 0, tuple{b4, c4}, tuple{web4, c4}),
			event(2, "forwarded", tcp, 0x02, 0, tuple{c6, web6}, tuple{c6, b6}),
			event(3, "replied", tcp, 0x12, 0, tuple{b6, c6}, tuple{web6, c6}),
			event(4, "forwarded", udp, 0, 0, tuple{c4, ends(vip4, 53)}, tuple{c4, ends(back4, 5353)}),
			event(5, "not_ours", udp, 0, 0, tuple{ends(back6, 9), c6}, tuple{}),
			event(6, "port_refused", tcp, 0x02, 0, tuple{c4, ends(vip4, 91)}, tuple{}),
			event(7, "martian", tcp, 0x02, 0, tuple{ends("127.0.0.1", clientPort), web4}, tuple{}),
			event(8, "not_ours", tcp, 0x02, 0, tuple{c6, ends("2001:db8:9::1", 90)}, tuple{}),
			event(9, "echo_answered", uint8(layers.IPProtocolICMPv4), 0, 8, tuple{ends(client4, 0), ends(vip4, 0)}, tuple{}),
			event(10, "forwarded", tcp, 0x02, 0, tuple{c4, web4}, tuple{c4, b4}),
		}
		p.sameEvents(h, want, p.traced(bpf.TraceFilter{}, len(want), func() { p.pour(h, frames...) }))
	})
}

// Of a datagram's fragments only the first has ports.
func TestTraceTellsOfFragments(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		whole := func(f frame) []byte { // two fragments that every link carries: none is too big where programs go by its MTU
			f.payload = bytes.Repeat([]byte("0123456789abcdef"), 125)
			return f.bytes(t)
		}
		all := append(fragments6(whole(datagram6()), 1024, 9), fragments4(whole(datagram4()), 1024)...)
		event := func(i int, from, to, became string, sport, dport, port uint16) bpf.TraceEvent {
			return bpf.TraceEvent{
				Reason: reasonNamed(t, "forwarded"), Bytes: len(all[i]),
				Key: bpf.FlowKey{Src: ends(from, sport), Dst: ends(to, dport), Proto: uint8(model.UDP)},
				Src: ends(from, sport), Dst: ends(became, port),
			}
		}
		want := []bpf.TraceEvent{
			event(0, client6, vip6, back6, clientPort, 53, 5353), event(1, client6, vip6, back6, 0, 0, 0),
			event(2, client4, vip4, back4, clientPort, 53, 5353), event(3, client4, vip4, back4, 0, 0, 0),
		}
		p.sameEvents(h, want, p.traced(bpf.TraceFilter{}, len(want), func() {
			for _, f := range all {
				p.send(h.prog(p), f)
			}
		}))
	})
}

// What was dropped before its headers were whole is told as far as it was read.
func TestTraceTellsOfBrokenPackets(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		p.pour(h, request4()) // what is left of its flags is not the next one's
		short := request4().bytes(t)
		short = short[:14+20+12] // in the middle of the TCP header
		short[16], short[17] = 0, 32
		arp := make([]byte, 60)
		arp[12], arp[13] = 8, 6
		got := p.traced(bpf.TraceFilter{}, 2, func() {
			p.send(h.prog(p), short)
			p.send(h.prog(p), arp)
		})
		p.sameEvents(h, []bpf.TraceEvent{
			{
				Reason: reasonNamed(t, "bad_packet"), Bytes: len(short),
				Key: bpf.FlowKey{Src: ends(client4, 0), Dst: ends(vip4, 0), Proto: uint8(model.TCP)},
			},
			{Reason: reasonNamed(t, "not_ip"), Bytes: len(arp)},
		}, got)
	})
}

// A filter lets through what meets every condition, and nothing else.
func TestTraceFilters(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web(), service("db", "198.18.0.11", "", webPorts, "10.1.0.3"))
		other := request4()
		other.src = "203.0.113.10"
		db := request4()
		db.dst = "198.18.0.11"
		back := frame{
			srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: client4, sport: 8090, dport: clientPort, tcp: synAck(),
		}
		ping := frame{src: client4, dst: vip4, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}}
		closed := request4()
		closed.dport = 9
		watch := func(keys ...bpf.ServiceKey) func() []bpf.ServiceKey {
			return func() []bpf.ServiceKey { return keys }
		}
		web90 := bpf.ServiceKey{VIP: netip.MustParseAddr(vip4), Port: 90, Proto: uint8(model.TCP)}
		back8090 := bpf.ServiceKey{VIP: netip.MustParseAddr(back4), Port: 8090, Proto: uint8(model.TCP)}
		anyWeb := bpf.ServiceKey{VIP: netip.MustParseAddr(vip4)}
		for _, c := range []struct {
			name   string
			filter bpf.TraceFilter
			want   []string
		}{
			{"none", bpf.TraceFilter{}, []string{"forwarded", "forwarded", "forwarded", "replied", "echo_answered", "port_refused"}},
			{"client", bpf.TraceFilter{Client: netip.MustParseAddr("203.0.113.10")}, []string{"forwarded"}},
			{"both directions", bpf.TraceFilter{Client: netip.MustParseAddr(client4)}, []string{"forwarded", "forwarded", "replied", "echo_answered", "port_refused"}},
			{"port", bpf.TraceFilter{Ends: watch(web90)}, []string{"forwarded", "forwarded"}},
			{"port and backend", bpf.TraceFilter{Ends: watch(web90, back8090)}, []string{"forwarded", "forwarded", "replied"}},
			{"address", bpf.TraceFilter{Ends: watch(anyWeb)}, []string{"forwarded", "forwarded", "echo_answered", "port_refused"}},
			{"client and address", bpf.TraceFilter{Client: netip.MustParseAddr("203.0.113.10"), Ends: watch(anyWeb)}, []string{"forwarded"}},
			{"another port", bpf.TraceFilter{Ends: watch(bpf.ServiceKey{VIP: netip.MustParseAddr(vip4), Port: 9, Proto: uint8(model.TCP)})}, []string{"port_refused"}},
			{"another protocol", bpf.TraceFilter{Ends: watch(bpf.ServiceKey{VIP: netip.MustParseAddr(vip4), Port: 9, Proto: uint8(model.UDP)}, back8090)}, []string{"replied"}},
			{"verdict", bpf.TraceFilter{Reason: func(r bpf.Reason) bool { return r.Verdict == bpf.Answer }}, []string{"echo_answered", "port_refused"}},
		} {
			events := p.traced(c.filter, len(c.want), func() { p.pour(h, request4(), other, db, back, ping, closed) })
			var got []string
			for _, e := range events {
				got = append(got, e.Reason.Name)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				p.Errorf("%s: reasons (-want +got)\n%s", c.name, diff)
			}
		}
	})
}

// Nobody traces: nothing is written, and a later trace does not see it.
func TestNoTraceNoEvents(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		p.pour(h, request4(), datagram4())
		got := p.traced(bpf.TraceFilter{}, 1, func() { p.pour(h, request6()) })
		if len(got) != 1 || got[0].Key.Src.Addr() != netip.MustParseAddr(client6) {
			p.Errorf("a trace saw %+v, want what was sent during it alone", got)
		}
		p.pour(h, request4(), datagram4())
	})
}

// More events than the ring buffer holds are counted.
func TestTraceCountsWhatItLoses(t *testing.T) {
	p := newPlane(t)
	const ring, event = 256 << 10, 96 + 8
	const sent = ring/event + 500
	foreign := request4()
	foreign.dst = "192.0.2.77"
	ctx, cancel := context.WithTimeout(t.Context(), traceDeadline)
	defer cancel()
	events, missed, on := 0, uint64(0), false
	err := p.objects.Trace(ctx, bpf.TraceFilter{}, func(batch []bpf.TraceEvent, lost uint64) bool {
		if !on {
			on = true
			if _, err := p.objects.Programs().XDP.Run(&ebpf.RunOptions{Data: foreign.bytes(t), Repeat: sent}); err != nil {
				t.Fatal(err)
			}
		}
		events, missed = events+len(batch), lost
		return events+int(lost) < sent
	})
	if err != nil {
		t.Fatal(err)
	}
	if missed == 0 || events+int(missed) != sent {
		t.Errorf("%d events and %d lost of %d packets", events, missed, sent)
	}
}
