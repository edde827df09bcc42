// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// warm has a client and a backend exchange datagrams until programs remember what
// becomes of them (bpf/lib/recent.h), and returns both.
func warm(p *plane, h hook) (request, reply frame) {
	p.Helper()
	request = datagram4()
	reply = frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: client4, sport: 5353, dport: clientPort, udp: true, payload: []byte("answer")}
	for range 3 {
		p.expect(h, "request", request.bytes(p.T), h.out, request.toBackend(client4, back4, clientPort, 5353).bytes(p.T), "1/forwarded")
		p.expect(h, "reply", reply.bytes(p.T), h.out, reply.toClient(vip4, client4, 53, clientPort).bytes(p.T), "1/replied")
	}
	return request, reply
}

// seenEvery is SEEN_EVERY of bpf/lib/flow.h.
const seenEvery = 256

// waitJiffies waits until the kernel's clock says so.
func waitJiffies(p *plane, until uint64) {
	p.Helper()
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(10 * time.Millisecond) {
		now, _, err := p.objects.Clock()
		if err != nil {
			p.Fatal(err)
		}
		if uint32(now)-uint32(until) < 1<<31 {
			return
		}
	}
	p.Fatalf("the clock has not reached %d", until)
}

// entries are the flow's entries of both directions.
func entries(p *plane) map[bpf.FlowKey]bpf.Flow {
	p.Helper()
	found := map[bpf.FlowKey]bpf.Flow{}
	err := p.objects.EachFlow(func(k bpf.FlowKey, f bpf.Flow, _ bool) bool {
		found[k] = f
		return true
	})
	if err != nil {
		p.Fatal(err)
	}
	return found
}

// repliesOf is the entry of the replies.
func repliesOf(p *plane) (bpf.FlowKey, bpf.Flow) {
	p.Helper()
	for k, f := range entries(p) {
		if f.Flags&bpf.FlowReply != 0 {
			return k, f
		}
	}
	p.Fatal("no entry of replies")
	return bpf.FlowKey{}, bpf.Flow{}
}

// The packets of a flow that is remembered do not ask for its entry: its time
// there stays, for the seconds that the memory counts and no longer.
func TestRecentSparesTheEntry(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		request, reply := warm(p, h)
		before := entries(p)
		both := func() {
			p.send(h.prog(p), request.bytes(t))
			p.send(h.prog(p), reply.bytes(t))
			p.moved()
		}
		for _, f := range before {
			waitJiffies(p, uint64(f.Seen)+seenEvery+1)
		}
		both()
		for k, f := range entries(p) {
			if f.Seen != before[k].Seen {
				t.Errorf("the entry of %v was asked for: time %d, was %d", k, f.Seen, before[k].Seen)
			}
		}
		for begun := time.Now(); ; time.Sleep(200 * time.Millisecond) {
			both()
			noted := 0
			for k, f := range entries(p) {
				if f.Seen != before[k].Seen {
					noted++
				}
			}
			if noted == 2 {
				return
			}
			if time.Since(begun) > 30*time.Second {
				t.Fatalf("after 30 s of packets the time of %d of 2 entries was noted", noted)
			}
		}
	})
}

// A client's flow in mode full-nat is remembered with the source it leaves from;
// it keeps that one when the place of its address is another's.
func TestRecentKnowsSources(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.sources(1000)
		p.apply(fullNAT())
		request := datagram4()
		port := p.sent(h, request)
		reply := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: source4, sport: 5353, dport: port, udp: true, payload: []byte("answer")}
		there := request.toBackend(source4, back4, port, 5353).bytes(t)
		back := reply.toClient(vip4, client4, 53, clientPort).bytes(t)
		for range 3 {
			p.expect(h, "reply", reply.bytes(t), h.out, back, "1/replied")
			p.expect(h, "request", request.bytes(t), h.out, there, "1/forwarded")
		}
		k := bpf.FlowKey{
			Src: netip.AddrPortFrom(netip.MustParseAddr(client4), clientPort),
			Dst: netip.AddrPortFrom(netip.MustParseAddr(vip4), 53), Proto: uint8(model.UDP),
		}
		before, found := entries(p)[k]
		if !found {
			t.Fatalf("no entry of %v", k)
		}
		waitJiffies(p, uint64(before.Seen)+seenEvery+1)
		p.expect(h, "remembered", request.bytes(t), h.out, there, "1/forwarded")
		if after := entries(p)[k]; after.Seen != before.Seen {
			t.Errorf("the entry was asked for: time %d, was %d", after.Seen, before.Seen)
		}
		if err := p.objects.PutSource(before.Source, netip.MustParseAddr("10.1.0.253")); err != nil {
			t.Fatal(err)
		}
		p.expect(h, "another source", request.bytes(t), h.out, there, "1/forwarded")
		if after := entries(p)[k]; after.Seen == before.Seen {
			t.Error("the entry was not asked for though the source is another one")
		}
	})
}

// Replies of mode full-nat are remembered with the client, of IPv4; and when the
// port is another client's, they are that one's.
func TestRecentKnowsClients(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.sources(1)
		p.apply(fullNAT())
		talk := func(sport uint16) (request, reply frame) {
			request = request4()
			request.sport = sport
			port := p.sent(h, request)
			reply = frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: source4, sport: 8090, dport: port, tcp: synAck()}
			p.expect(h, "SYN-ACK", reply.bytes(t), h.out, reply.toClient(vip4, client4, 90, sport).bytes(t), "1/replied")
			request.tcp, reply.tcp = ack(), ack()
			p.sent(h, request)
			for range 3 {
				p.expect(h, "reply", reply.bytes(t), h.out, reply.toClient(vip4, client4, 90, sport).bytes(t), "1/replied")
			}
			return request, reply
		}
		request, reply := talk(clientPort)
		k, before := repliesOf(p)
		waitJiffies(p, uint64(before.Seen)+seenEvery+1)
		p.expect(h, "remembered", reply.bytes(t), h.out, reply.toClient(vip4, client4, 90, clientPort).bytes(t), "1/replied")
		if after := entries(p)[k]; after.Seen != before.Seen {
			t.Errorf("the entry was asked for: time %d, was %d", after.Seen, before.Seen)
		}
		request.tcp = &layers.TCP{RST: true, Seq: 1001}
		p.sent(h, request)
		talk(clientPort + 1)
	})
}

// What the agent changes or deletes counts from the next packet on.
func TestRecentFollowsTheAgent(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		_, reply := warm(p, h)
		k, f := repliesOf(p)
		f.Src = netip.AddrPortFrom(f.Src.Addr(), 54)
		if err := p.objects.PutFlow(k, f, true); err != nil {
			t.Fatal(err)
		}
		p.expect(h, "changed", reply.bytes(t), h.out, reply.toClient(vip4, client4, 54, clientPort).bytes(t), "1/replied")
		_, f = repliesOf(p) // with the time that the packet noted
		if deleted, err := p.objects.DeleteFlow(k, f); err != nil || !deleted {
			t.Fatalf("DeleteFlow = %v, %v", deleted, err)
		}
		p.expect(h, "deleted", reply.bytes(t), h.pass, nil, "1/not_ours")
	})
}

// A backend's number may be another one's a moment later.
func TestRecentNumberReused(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		request, _ := warm(p, h)
		p.apply(service("web", vip4, vip6, webPorts, "10.1.0.9", back6))
		p.expect(h, "drains", request.bytes(t), h.out, request.toBackend(client4, back4, clientPort, 5353).bytes(t), "1/forwarded")
		err := p.objects.EachBackend(func(i uint32, b bpf.Backend) bool {
			if b.Addr == netip.MustParseAddr(back4) && b.Port == 5353 {
				b.Addr = netip.MustParseAddr("10.1.0.77")
				if err := p.objects.PutBackend(i, b); err != nil {
					t.Fatal(err)
				}
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		p.expect(h, "reused", request.bytes(t), h.out, request.toBackend(client4, "10.1.0.9", clientPort, 5353).bytes(t), "1/forwarded")
	})
}
