// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
)

// Row A05: when a drain has ended, a client that still sends is reset, not left
// waiting: its packets go to a present backend, and that one's reset comes from
// the VIP.
func TestA05ReleasedConnectionIsReset(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(service("web", vip4, "", webPorts, "10.1.0.2"))
		syn, data := request4(), request4()
		data.tcp = ack()
		p.send(h.prog(p), syn.bytes(t))
		answer := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: "10.1.0.2", dst: client4, sport: 8090, dport: clientPort, tcp: synAck()}
		p.send(h.prog(p), answer.bytes(t))
		p.send(h.prog(p), data.bytes(t))
		p.moved()

		p.apply(service("web", vip4, "", webPorts, "10.1.0.3"))
		p.expect(h, "drains", data.bytes(t), h.out, data.toBackend(client4, "10.1.0.2", clientPort, 8090).bytes(t), "1/forwarded")
		p.now = p.now.Add(time.Hour)
		if err := p.target.Sweep(); err != nil {
			t.Fatal(err)
		}
		p.expect(h, "released", data.bytes(t), h.out, data.toBackend(client4, "10.1.0.3", clientPort, 8090).bytes(t), "1/forwarded")
		reset := frame{
			srcMAC: backMAC, dstMAC: nodeMAC, src: "10.1.0.3", dst: client4, sport: 8090, dport: clientPort,
			tcp: &layers.TCP{RST: true, Seq: 5001},
		}
		p.expect(h, "reset", reset.bytes(t), h.out, reset.toClient(vip4, client4, 90, clientPort).bytes(t), "1/replied")
	})
}
