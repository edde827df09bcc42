// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// rewriter changes source address and port of a serialized IPv4 TCP frame and
// keeps its checksums right (RFC 1624).
type rewriter struct{ frame []byte }

func (r rewriter) from(addr uint32, port uint16) []byte {
	const src, ipSum, sport, tcpSum = 26, 24, 34, 50
	set := func(at int, value uint16, sums ...int) {
		old := binary.BigEndian.Uint16(r.frame[at:])
		binary.BigEndian.PutUint16(r.frame[at:], value)
		for _, s := range sums {
			sum := uint32(^binary.BigEndian.Uint16(r.frame[s:])) + uint32(^old) + uint32(value)
			for sum > 0xffff {
				sum = sum&0xffff + sum>>16
			}
			binary.BigEndian.PutUint16(r.frame[s:], ^uint16(sum))
		}
	}
	set(src, uint16(addr>>16), ipSum, tcpSum)
	set(src+2, uint16(addr), ipSum, tcpSum)
	set(sport, port, tcpSum)
	return r.frame
}

// Issue "L4 ahead of every anchor", 6: a flood of 500 000 packets, SYNs and
// forged ACKs, from random sources neither moves nor breaks one of 10 000 established connections, even
// though the set of replicas changes meanwhile.
func TestSYNFloodEvictsNobody(t *testing.T) {
	const live, flood = 10_000, 250_000
	p := newSizedPlane(t, bpf.Config{Services: 256, Backends: 256, Slots: 1 << 16, Flows: 1 << 16, Embryos: 1 << 13, HashSeed: 7})
	h := hooks[0]
	p.apply(service("web", vip4, "", webPorts, "10.1.0.2", "10.1.0.3", "10.1.0.4"))
	handshake, data := request4(), request4()
	data.tcp = ack()
	syns, acks := rewriter{handshake.bytes(t)}, rewriter{data.bytes(t)}
	wrong := data
	wrong.tcp = &layers.TCP{ACK: true, Seq: 1001, Ack: 1, Window: 502} // what an unknown number of 0 would be answered with
	forged := rewriter{wrong.bytes(t)}
	client := func(i int) (uint32, uint16) { return 0xcb007100 + uint32(i%200), uint16(1024 + i/200) }
	send := func(frame []byte) byte {
		_, out := p.send(h.prog(p), frame)
		return out[33]
	}
	backend := make([]byte, live)
	for i := range live {
		addr, port := client(i)
		backend[i] = send(syns.from(addr, port))
		reply := frame{
			srcMAC: backMAC, dstMAC: nodeMAC, src: fmt.Sprintf("10.1.0.%d", backend[i]), sport: 8090,
			dst: netip.AddrFrom4([4]byte{203, 0, 113, byte(addr)}).String(), dport: port, tcp: synAck(),
		}
		send(reply.bytes(t))
		if got := send(acks.from(addr, port)); got != backend[i] {
			t.Fatalf("flow %d: SYN to .%d, ACK to .%d", i, backend[i], got)
		}
	}
	p.apply(service("web", vip4, "", webPorts, "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"))
	r := rand.New(rand.NewPCG(1, 1))
	for range flood {
		// A forged ACK after the SYN confirms nothing: its number is a guess.
		addr, port := 0x0b000000+r.Uint32()%0x10000000, uint16(1024+r.IntN(60000))
		send(syns.from(addr, port))
		send(forged.from(addr, port))
	}
	moved := 0
	for i := range live {
		addr, port := client(i)
		if got := send(acks.from(addr, port)); got != backend[i] {
			moved++
		}
	}
	if moved > 0 {
		t.Errorf("%d of %d established connections moved", moved, live)
	}
	entries := 0
	err := p.objects.EachFlow(func(_ bpf.FlowKey, _ bpf.Flow, confirmed bool) bool {
		if confirmed {
			entries++
		}
		return true
	})
	if err != nil || entries != live {
		t.Errorf("%d confirmed entries, want %d: %v", entries, live, err)
	}
}
