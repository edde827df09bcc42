// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

const source4, source6 = "10.1.0.254", "fd00:1::fe"

// fullNAT is web in mode full-nat.
func fullNAT() model.Service {
	svc := web()
	svc.Mode = model.ModeFullNAT
	return svc
}

// sources gives the node its source addresses with n free ports each.
func (p *plane) sources(n uint16) {
	p.nodeAddrs = []netip.Addr{netip.MustParseAddr(source4), netip.MustParseAddr(source6)}
	p.localPorts = [2]uint16{1024 + n, 65535}
}

// sourcePort is the L4 source port of a frame without VLAN tags or options.
func sourcePort(out []byte, v6 bool) uint16 {
	at := 34
	if v6 {
		at = 54
	}
	return binary.BigEndian.Uint16(out[at:])
}

// sent translates a client's frame and tells the source port it got.
func (p *plane) sent(h hook, f frame) uint16 {
	p.Helper()
	_, out, moved := p.run(h.prog(p), f.bytes(p.T))
	if fmt.Sprint(moved) != "[1/forwarded]" {
		p.Fatalf("from port %d: %v", f.sport, moved)
	}
	return sourcePort(out, f.icmp6 != nil || netip.MustParseAddr(f.src).Is6())
}

func TestFullNATForwardAndReply(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.sources(1000)
		p.apply(fullNAT())
		for _, c := range []struct {
			name         string
			req          frame
			source, back string
			port         uint16
			client, vip  string
			servicePort  uint16
			answer       *layers.TCP
		}{
			{"tcp4", request4(), source4, back4, 8090, client4, vip4, 90, synAck()},
			{"tcp6", request6(), source6, back6, 8090, client6, vip6, 90, synAck()},
			{"udp4", datagram4(), source4, back4, 5353, client4, vip4, 53, nil},
			{"udp6", datagram6(), source6, back6, 5353, client6, vip6, 53, nil},
		} {
			port := p.sent(h, c.req)
			if port < 1024 || port >= 2024 {
				t.Errorf("%s: source port %d is none of the free ones", c.name, port)
			}
			want := c.req.toBackend(c.source, c.back, port, c.port).bytes(t)
			p.expect(h, c.name, c.req.bytes(t), h.out, want, "1/forwarded")
			reply := frame{
				srcMAC: backMAC, dstMAC: nodeMAC, src: c.back, dst: c.source, sport: c.port, dport: port,
				tcp: c.answer, udp: c.answer == nil, payload: []byte("answer"),
			}
			p.expect(h, c.name+" reply", reply.bytes(t), h.out,
				reply.toClient(c.vip, c.client, c.servicePort, clientPort).bytes(t), "1/replied")
			reply.dport++ // nobody's
			p.expect(h, c.name+" stray", reply.bytes(t), h.pass, nil, "1/not_ours")
		}
	})
}

// Every port is given out, each once; then new flows are refused and counted,
// and a connection that ends makes room for one more.
func TestFullNATUsesEveryPortOnce(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		const n = 50
		p.sources(n)
		p.apply(fullNAT())
		flows := map[uint16]frame{} // by source port
		for i := range uint16(n) {
			f := request4()
			f.sport = 20000 + i
			flows[p.sent(h, f)] = f
		}
		if len(flows) != n {
			t.Fatalf("%d connections got %d different ports", n, len(flows))
		}
		more := request4()
		more.sport = 30000
		p.expect(h, "one too many", more.bytes(t), h.drop, nil, "1/no_source_port")
		p.sent(h, datagram4()) // UDP has ports of its own
		p.sent(h, request6())  // and so has IPv6

		ended := slices.Sorted(maps.Keys(flows))[n/2]
		over := flows[ended]
		over.tcp = &layers.TCP{RST: true, Seq: 1001}
		p.sent(h, over)
		if got := p.sent(h, more); got != ended {
			t.Errorf("port %d was free and %d was given", ended, got)
		}
		again := more
		again.sport++
		p.expect(h, "one too many again", again.bytes(t), h.drop, nil, "1/no_source_port")
	})
}

// A FIN of each side ends a connection; of one side it does not.
func TestFullNATPortsReturnAtTheEnd(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.sources(1)
		p.apply(fullNAT())
		f := request4()
		port := p.sent(h, f)
		reply := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: source4, sport: 8090, dport: port, tcp: synAck()}
		p.run(h.prog(p), reply.bytes(t))
		f.tcp = ack()
		p.sent(h, f)
		f.tcp = &layers.TCP{FIN: true, ACK: true, Seq: 1001, Ack: 5001}
		p.sent(h, f)
		other := request4()
		other.sport++
		p.expect(h, "half closed", other.bytes(t), h.drop, nil, "1/no_source_port")
		reply.tcp = &layers.TCP{FIN: true, ACK: true, Seq: 5001, Ack: 1002}
		p.run(h.prog(p), reply.bytes(t))
		p.moved()
		f.tcp = &layers.TCP{ACK: true, Seq: 1002, Ack: 5002}
		if got := p.sent(h, f); got != port {
			t.Errorf("the last ACK left from port %d instead of %d", got, port)
		}
		if got := p.sent(h, other); got != port {
			t.Errorf("the next connection has port %d, only %d was there", got, port)
		}
	})
}

// What the agent ends, it gives back: a drained backend's ports. What nobody
// gives back, it finds. What is in use when it starts stays in use.
func TestFullNATPortsAreNeverLost(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		const n = 20
		p.sources(n)
		p.apply(fullNAT())
		open := func(first uint16) (got int) {
			for i := range uint16(2 * n) {
				f := request4()
				f.sport = first + i
				_, _, moved := p.run(h.prog(p), f.bytes(t))
				if fmt.Sprint(moved) == "[1/forwarded]" {
					got++
				}
			}
			return got
		}
		f := request4()
		p.sent(h, f)
		p.restart()
		p.apply(fullNAT())
		if got := open(20000); got != n-1 {
			t.Errorf("after a restart with one connection %d more found a port, wanted %d", got, n-1)
		}
		gone := fullNAT()
		gone.Backends = nil
		gone.Drain = time.Second
		p.apply(gone)
		p.now = p.now.Add(2 * time.Second)
		if err := p.target.Sweep(); err != nil {
			t.Fatal(err)
		}
		p.apply(fullNAT())
		if got := open(30000); got != n {
			t.Errorf("after the drain %d connections found a port, wanted %d", got, n)
		}
		// The kernel's LRU takes entries without a word.
		err := p.objects.EachFlow(func(k bpf.FlowKey, f bpf.Flow, _ bool) bool {
			_, err := p.objects.DeleteFlow(k, f)
			return err == nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := open(40000); got != 0 {
				t.Errorf("%d connections found a port before the loss was found", got)
			}
			p.now = p.now.Add(time.Hour)
			if err := p.target.Sweep(); err != nil {
				t.Fatal(err)
			}
		}
		if got := open(50000); got != n {
			t.Errorf("after the audits %d connections found a port, wanted %d", got, n)
		}
	})
}

// Addresses that come and go: connections keep theirs, new ones get those that are.
func TestFullNATSourcesChange(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		first, second := netip.MustParseAddr("10.1.0.250"), netip.MustParseAddr("10.1.0.251")
		p.settings.Node.Sources = []netip.Addr{first}
		p.apply(fullNAT())
		old := request4()
		p.sent(h, old)
		p.settings.Node.Sources = []netip.Addr{second}
		p.apply(fullNAT())
		from := func(f frame) netip.Addr {
			_, out, moved := p.run(h.prog(p), f.bytes(t))
			if fmt.Sprint(moved) != "[1/forwarded]" {
				t.Fatalf("from %d: %v", f.sport, moved)
			}
			return netip.AddrFrom4([4]byte(out[26:30]))
		}
		if got := from(old); got != first {
			t.Errorf("an open connection moved from %s to %s", first, got)
		}
		for i := range uint16(100) {
			f := request4()
			f.sport = 20000 + i
			if got := from(f); got != second {
				t.Fatalf("a new connection leaves from %s, wanted %s", got, second)
			}
		}
	})
}

// All addresses that the config may name have room for all their ports, also
// where a new agent finds those of others in the queues.
func TestFullNATHasRoomForItsSources(t *testing.T) {
	const most, each = 8, 65536 - 1024
	p := newPlane(t)
	named := func(third int) (out []netip.Addr) {
		for i := range most {
			out = append(out, netip.MustParseAddr(fmt.Sprintf("10.1.%d.%d", third, 200+i)))
		}
		return out
	}
	p.settings.Node.Sources = named(0)
	p.apply(fullNAT())
	p.restart()
	p.settings.Node.Sources = named(1)
	p.apply(fullNAT())
	got := map[bpf.SourcePort]bool{}
	for len(got) <= most*each {
		port, ok, err := p.objects.TakePort(bpf.PortClass{})
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		got[port] = true
	}
	if len(got) != most*each {
		t.Errorf("%d ports are free, wanted %d", len(got), most*each)
	}
}

// A service that changes its mode keeps its connections, there and back.
func TestFullNATIsTurnedOnAndOff(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.sources(100)
		p.apply(web())
		plain := request4()
		p.sent(h, plain)
		p.apply(fullNAT())
		nat := request4()
		nat.sport = 41000
		port := p.sent(h, nat)
		plain.tcp, nat.tcp = ack(), ack()
		for range 3 {
			p.expect(h, "from before", plain.bytes(t), h.out, plain.toBackend(client4, back4, clientPort, 8090).bytes(t), "1/forwarded")
			p.expect(h, "full-nat", nat.bytes(t), h.out, nat.toBackend(source4, back4, port, 8090).bytes(t), "1/forwarded")
			p.apply(web())
			p.now = p.now.Add(time.Minute)
			if err := p.target.Sweep(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// ICMP errors and fragments of translated flows.
func TestFullNATErrorsAndFragments(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.sources(100)
		p.apply(fullNAT())
		req := datagram4()
		port := p.sent(h, req)
		sent := req.toBackend(source4, back4, port, 5353).bytes(t)
		closed := frame{
			srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: source4,
			icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, payload: sent[14 : 14+28],
		}
		quote := req
		quote.ttl = 63
		want := closed
		want.srcMAC, want.dstMAC, want.src, want.dst, want.ttl = nodeMAC, routerMAC, vip4, client4, 63
		want.payload = quote.bytes(t)[14 : 14+28]
		copy(want.payload[26:28], sent[14+26:14+28])
		p.expect(h, "port unreachable from the backend", closed.bytes(t), h.out, want.bytes(t), "1/icmp_forwarded")

		reply := frame{src: vip4, dst: client4, sport: 53, dport: clientPort, udp: true, payload: bytes.Repeat([]byte{1}, 1400)}
		seen := reply.bytes(t)
		tooBig := frame{
			src: "192.0.2.77", dst: vip4,
			icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1280}, payload: seen[14 : 14+28],
		}
		inner := reply
		inner.src, inner.dst, inner.sport, inner.dport = back4, source4, 5353, port
		want = tooBig
		want.srcMAC, want.dstMAC, want.dst, want.ttl = nodeMAC, backMAC, back4, 63
		want.payload = inner.bytes(t)[14 : 14+28]
		copy(want.payload[26:28], seen[14+26:14+28])
		p.expect(h, "frag needed to the backend", tooBig.bytes(t), h.out, want.bytes(t), "1/icmp_forwarded")

		whole := big(datagram4())
		whole.id = 4711
		in := fragments4(whole.bytes(t), 1480)
		out := fragments4(whole.toBackend(source4, back4, port, 5353).bytes(t), 1480)
		for i := range in {
			p.expect(h, fmt.Sprint("fragment ", i), in[i], h.out, out[i], "1/forwarded")
		}
	})
}

// balance.policy least-connections: whoever has the fewest connections for its
// weight gets the next, also after some have ended.
func TestLeastConnections(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		backends := []string{"10.1.0.2", "10.1.0.3", "10.1.0.4"}
		svc := service("web", vip4, "", webPorts, backends...)
		svc.Balance.Policy = "least-connections"
		svc.Backends[2].Weight = 2
		p.apply(svc)
		conns := map[string][]uint16{}
		port := uint16(10000)
		open := func(n int) {
			for range n {
				port++
				b := p.backendOf(h, client4, port)
				conns[b] = append(conns[b], port)
			}
		}
		near := func(when string, want ...int) {
			t.Helper()
			for i, b := range backends {
				if got := len(conns[b]); got < want[i]-3 || got > want[i]+3 {
					t.Errorf("%s: %s has %d connections, wanted about %d (%v)", when, b, got, want[i], backends)
				}
			}
		}
		open(400)
		near("at first", 100, 100, 200)
		for _, sport := range conns[backends[0]] {
			f := request4()
			f.sport, f.tcp = sport, &layers.TCP{RST: true, Seq: 1001}
			p.sent(h, f)
		}
		conns[backends[0]] = nil
		open(80)
		near("after one lost all of its own", 80, 100, 200)
		// The agent's count is the same.
		if err := p.target.Sweep(); err != nil {
			t.Fatal(err)
		}
		open(120)
		near("after a sweep", 125, 125, 250)
	})
}
