// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/test/feature"
)

// Connections that were idle while others filled the flow table have lost their
// entries to the kernel's LRU. Their clients' next packets bring them back; forged
// ones leave nothing behind.
func TestEvictedConnectionsGoOn(t *testing.T) {
	for _, h := range hooks {
		t.Run(h.name, func(t *testing.T) {
			if h.name == "xdp" {
				feature.Needs(t, feature.XDPTestContext)
			}
			evictedConnectionsGoOn(t, h)
		})
	}
}

func evictedConnectionsGoOn(t *testing.T, h hook) {
	const size, idle, others = 1 << 13, 50, 3 << 12 // each CPU keeps up to 128 free entries for itself
	p := newSizedPlane(t, bpf.Config{Services: 64, Backends: 64, Slots: 1 << 16, Flows: size, Embryos: 1 << 12, HashSeed: 7})
	p.apply(service("web", vip4, "", webPorts, "10.1.0.2", "10.1.0.3", "10.1.0.4"))
	data := func(port uint16) frame {
		f := request4()
		f.sport, f.tcp = port, ack()
		return f
	}
	reply := func(backend byte, port uint16, tcp *layers.TCP) frame {
		return frame{srcMAC: backMAC, dstMAC: nodeMAC, src: fmt.Sprintf("10.1.0.%d", backend), dst: client4, sport: 8090, dport: port, tcp: tcp}
	}
	open := func(port uint16) byte {
		t.Helper()
		f := request4()
		f.sport = port
		_, out := p.send(h.prog(p), f.bytes(t))
		backend := out[33]
		p.send(h.prog(p), reply(backend, port, synAck()).bytes(t))
		p.send(h.prog(p), data(port).bytes(t))
		return backend
	}
	confirmed := func() map[uint16]bool {
		t.Helper()
		ports := map[uint16]bool{}
		err := p.objects.EachFlow(func(k bpf.FlowKey, _ bpf.Flow, confirmed bool) bool {
			if confirmed {
				ports[k.Dst.Port()] = true
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return ports
	}

	first := uint16(10_000)
	backends := make([]byte, idle)
	for i := range backends {
		backends[i] = open(first + uint16(i))
	}
	for i := range uint16(others) {
		open(1024 + first + i)
	}
	left, lost := confirmed(), 0
	for i := range uint16(idle) {
		if !left[first+i] {
			lost++
		}
	}
	if lost == 0 {
		t.Fatalf("after %d more connections in a table of %d none of %d has lost its entry", others, size, idle)
	}
	p.moved()
	if err := p.target.Sweep(); err != nil {
		t.Fatal(err)
	}
	for i, b := range backends {
		port := first + uint16(i)
		back := fmt.Sprintf("10.1.0.%d", b)
		request, answer := data(port), reply(b, port, ack())
		p.expect(h, "request", request.bytes(t), h.out, request.toBackend(client4, back, port, 8090).bytes(t), "1/forwarded")
		p.expect(h, "reply", answer.bytes(t), h.out, answer.toClient(vip4, client4, 90, port).bytes(t), "1/replied")
	}
	left = confirmed()
	for i := range uint16(idle) {
		if !left[first+i] {
			t.Errorf("the connection of port %d has no entry after a packet of both sides", first+i)
		}
	}

	forged := data(9)
	_, out := p.send(h.prog(p), forged.bytes(t))
	b := out[33]
	p.moved()
	rst := reply(b, 9, &layers.TCP{RST: true, Seq: 5001})
	p.expect(h, "reset", rst.bytes(t), h.out, rst.toClient(vip4, client4, 90, 9).bytes(t), "1/replied")
	if confirmed()[9] {
		t.Error("a segment without a connection has made a confirmed entry")
	}
}
