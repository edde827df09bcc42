// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/test/feature"
)

// hook is one kind of program with the verdicts it gives.
type hook struct {
	name                 string
	prog                 func(*plane) *ebpf.Program
	pass, drop, out, bac uint32 // bac: back out of the interface it came by
}

var hooks = []hook{
	{"xdp", func(p *plane) *ebpf.Program { return p.objects.Programs().XDP }, xdpPass, xdpDrop, xdpTX, xdpTX},
	{"tc", func(p *plane) *ebpf.Program { return p.objects.Programs().TC }, tcUnspec, tcShot, tcRedirect, tcRedirect},
}

// eachHook runs a test for XDP and TC: both must do the same to every byte.
func eachHook(t *testing.T, f func(p *plane, h hook)) {
	for _, h := range hooks {
		t.Run(h.name, func(t *testing.T) {
			if h.name == "xdp" {
				feature.Needs(t, feature.XDPTestContext)
			}
			f(newPlane(t), h)
		})
	}
}

// expect sends in and wants the verdict, exactly want's bytes (nil: in's), and
// exactly these counters.
func (p *plane) expect(h hook, name string, in []byte, verdict uint32, want []byte, counters ...string) {
	p.Helper()
	if want == nil {
		want = in
	}
	got, out, moved := p.run(h.prog(p), bytes.Clone(in))
	if got != verdict {
		p.Errorf("%s: verdict %d, want %d (counters %v)", name, int32(got), int32(verdict), moved)
	}
	if verdict != h.drop && !bytes.Equal(out, want) {
		p.Errorf("%s: wrong bytes\n%s", name, cmp.Diff(hex.Dump(want), hex.Dump(out)))
	}
	if diff := cmp.Diff(counters, moved); diff != "" {
		p.Errorf("%s: counters (-want +got)\n%s", name, diff)
	}
}

// Row A02: servicePort 90 reaches containerPort 8090, and the reply comes from
// where the client had sent to.
func TestA02ForwardAndReply(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		for _, c := range []struct {
			name      string
			req       frame
			back      string
			port      uint16
			reply     *layers.TCP
			client    string
			vip       string
			proxyPort uint16
		}{
			{"tcp4", request4(), back4, 8090, synAck(), client4, vip4, 90},
			{"tcp6", request6(), back6, 8090, synAck(), client6, vip6, 90},
			{"udp4", datagram4(), back4, 5353, nil, client4, vip4, 53},
			{"udp6", datagram6(), back6, 5353, nil, client6, vip6, 53},
		} {
			req := c.req.bytes(t)
			p.expect(h, c.name, req, h.out, c.req.toBackend(c.client, c.back, clientPort, c.port).bytes(t), "1/forwarded")
			reply := frame{
				srcMAC: backMAC, dstMAC: nodeMAC, src: c.back, dst: c.client, sport: c.port, dport: clientPort,
				tcp: c.reply, udp: c.reply == nil, payload: []byte("answer"),
			}
			p.expect(h, c.name+" reply", reply.bytes(t), h.out,
				reply.toClient(c.vip, c.client, c.proxyPort, clientPort).bytes(t), "1/replied")
			p.expect(h, c.name+" again", req, h.out, c.req.toBackend(c.client, c.back, clientPort, c.port).bytes(t), "1/forwarded")
		}
	})
}

func TestHeadersAreKept(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		mutations := map[string]func(*frame){
			"dscp and ecn": func(f *frame) { f.tos = 0xb9 },
			"ttl 2":        func(f *frame) { f.ttl = 2 },
			"payload":      func(f *frame) { f.payload = bytes.Repeat([]byte("odd"), 333) },
		}
		for name, mutate := range mutations {
			for _, base := range []frame{request4(), request6(), datagram4(), datagram6()} {
				f := base
				mutate(&f)
				back, client, port := back4, client4, uint16(8090)
				if f.src == client6 {
					back, client = back6, client6
				}
				if f.udp {
					port = 5353
				}
				p.expect(h, name, f.bytes(t), h.out, f.toBackend(client, back, clientPort, port).bytes(t), "1/forwarded")
			}
		}
		opts := request4()
		opts.options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}} // router alert
		p.expect(h, "IPv4 options", opts.bytes(t), h.out, opts.toBackend(client4, back4, clientPort, 8090).bytes(t), "1/forwarded")
	})
}

func TestUDPChecksumZero(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		none := datagram4()
		none.noChecksum = true
		p.expect(h, "0 stays 0", none.bytes(t), h.out, none.toBackend(client4, back4, clientPort, 5353).bytes(t), "1/forwarded")
		// A payload for which the translated checksum comes out as 0 is sent as 0xffff.
		for i := range 1 << 16 {
			f := datagram4()
			f.payload = []byte{byte(i >> 8), byte(i)}
			want := f.toBackend(client4, back4, clientPort, 5353).bytes(t)
			if want[40] == 0xff && want[41] == 0xff {
				p.expect(h, "computed 0", f.bytes(t), h.out, want, "1/forwarded")
				return
			}
		}
		p.Fatal("no payload gives checksum 0")
	})
}

func TestVLANTagsEndHere(t *testing.T) {
	// In TC the kernel keeps one tag beside the packet, where a test run cannot put it.
	p := newPlane(t)
	p.apply(web())
	for _, tags := range [][]uint16{{100}, {100, 200}} {
		f := request4()
		f.vlans, f.payload = tags, make([]byte, 16) // long enough not to be padded
		p.expect(hooks[0], "tagged", f.bytes(t), xdpTX, f.toBackend(client4, back4, clientPort, 8090).bytes(t), "1/forwarded")
	}
}

// A backend that calls its own service reaches itself, and the reply comes back
// through the balancer because the VIP is the source.
func TestHairpin(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		call := request4()
		call.src = back4
		p.expect(h, "call", call.bytes(t), h.out, call.toBackend(vip4, back4, clientPort, 8090).bytes(t), "1/forwarded")
		reply := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: vip4, sport: 8090, dport: clientPort, tcp: synAck()}
		// The kernel's route to the backend is the router here: what counts is the translation.
		p.expect(h, "reply", reply.bytes(t), h.out, reply.toClient(vip4, back4, 90, clientPort).bytes(t), "1/replied")
	})
}

// One client port to two VIPs that share a backend: never a mix-up.
func TestOneBackendBehindTwoVIPs(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		const other = "198.18.0.11"
		p.apply(web(), service("other", other, "", webPorts, back4))
		first := request4()
		p.expect(h, "first", first.bytes(t), h.out, first.toBackend(client4, back4, clientPort, 8090).bytes(t), "1/forwarded")
		second := request4()
		second.dst = other
		verdict, out, moved := p.run(h.prog(p), second.bytes(t))
		if verdict != h.out || len(moved) != 1 || moved[0] != "1/forwarded" {
			p.Fatalf("second: verdict %d, counters %v", verdict, moved)
		}
		port := uint16(out[34])<<8 | uint16(out[35])
		if port == clientPort {
			p.Fatal("both flows have the same tuple towards the backend")
		}
		if want := second.toBackend(client4, back4, port, 8090).bytes(t); !bytes.Equal(out, want) {
			p.Errorf("second: wrong bytes\n%s", cmp.Diff(hex.Dump(want), hex.Dump(out)))
		}
		for _, c := range []struct {
			vip  string
			port uint16
		}{{vip4, clientPort}, {other, port}} {
			reply := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: client4, sport: 8090, dport: c.port, tcp: synAck()}
			p.expect(h, "reply of "+c.vip, reply.bytes(t), h.out, reply.toClient(c.vip, client4, 90, clientPort).bytes(t), "1/replied")
		}
	})
}

func TestNotOursIsUntouched(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		elsewhere := request4()
		elsewhere.dst = "192.0.2.1"
		p.expect(h, "node's own address", elsewhere.bytes(t), h.pass, nil, "1/not_ours")
		from := frame{src: back4, dst: client4, sport: 22, dport: 50000, tcp: synAck()}
		p.expect(h, "backend's own traffic", from.bytes(t), h.pass, nil, "1/not_ours")
		arp := append(append(bytes.Repeat([]byte{0xff}, 6), routerMAC...), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
		p.expect(h, "arp", append(arp, make([]byte, 20)...), h.pass, nil, "1/not_ip")
		ping := frame{src: client4, dst: "192.0.2.1", icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 1, Seq: 1}}
		p.expect(h, "echo to the node", ping.bytes(t), h.pass, nil, "1/not_ours")
	})
}

func TestBackendsAreSpread(t *testing.T) {
	p := newPlane(t)
	svc := service("web", vip4, "", webPorts, "10.1.0.2", "10.1.0.3", "10.1.0.4")
	svc.Backends[1].Weight = 2
	p.apply(svc)
	seen := map[byte]int{}
	const n = 4000
	for i := range n {
		f := request4()
		f.sport = uint16(10000 + i)
		_, out, _ := p.run(hooks[0].prog(p), f.bytes(t))
		seen[out[33]]++
	}
	for last, share := range map[byte]int{2: 1, 3: 2, 4: 1} {
		if want := n * share / 4; seen[last] < want*85/100 || seen[last] > want*115/100 {
			t.Errorf("10.1.0.%d has %d of %d flows, want about %d", last, seen[last], n, want)
		}
	}
}

// Row A05: an established flow keeps its backend when others come and when its
// own drains; a new one does not go there.
func TestA05FlowsKeepTheirBackend(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(service("web", vip4, "", webPorts, "10.1.0.2"))
		first, data := request4(), request4()
		data.tcp = ack()
		p.expect(h, "syn", first.bytes(t), h.out, first.toBackend(client4, "10.1.0.2", clientPort, 8090).bytes(t), "1/forwarded")
		p.expect(h, "ack", data.bytes(t), h.out, data.toBackend(client4, "10.1.0.2", clientPort, 8090).bytes(t), "1/forwarded")
		p.apply(service("web", vip4, "", webPorts, "10.1.0.3"))
		p.expect(h, "drains", data.bytes(t), h.out, data.toBackend(client4, "10.1.0.2", clientPort, 8090).bytes(t), "1/forwarded")
		p.expect(h, "new connection", first.bytes(t), h.out, first.toBackend(client4, "10.1.0.3", clientPort, 8090).bytes(t), "1/forwarded")
	})
}

// Row A05: UDP flows of a backend that drains stay with it, until it is gone
// altogether: a client's port may belong to another conversation by then.
func TestGoneBackend(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		for _, f := range []struct {
			udp      frame
			was, now string
		}{{datagram4(), "10.1.0.2", "10.1.0.3"}, {datagram6(), "fd00:10:1::2", "fd00:10:1::3"}} {
			p.apply(service("web", vip4, vip6, webPorts, f.was))
			p.expect(h, "at first", f.udp.bytes(t), h.out, f.udp.toBackend(f.udp.src, f.was, clientPort, 5353).bytes(t), "1/forwarded")
			p.apply(service("web", vip4, vip6, webPorts, f.now))
			p.expect(h, "drains", f.udp.bytes(t), h.out, f.udp.toBackend(f.udp.src, f.was, clientPort, 5353).bytes(t), "1/forwarded")
			p.gone[netip.MustParseAddr(f.was)] = true
			p.again()
			p.expect(h, "gone", f.udp.bytes(t), h.out, f.udp.toBackend(f.udp.src, f.now, clientPort, 5353).bytes(t), "1/forwarded")
			p.expect(h, "and again", f.udp.bytes(t), h.out, f.udp.toBackend(f.udp.src, f.now, clientPort, 5353).bytes(t), "1/forwarded")
		}
	})
}

// A dead backend's UDP flows move at their next packet; TCP flows wait for it.
func TestDownBackend(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(service("web", vip4, "", webPorts, "10.1.0.2"))
		udp, tcp := datagram4(), request4()
		p.run(h.prog(p), tcp.bytes(t))
		tcp.tcp = ack()
		p.expect(h, "udp", udp.bytes(t), h.out, udp.toBackend(client4, "10.1.0.2", clientPort, 5353).bytes(t), "1/forwarded")
		p.expect(h, "tcp", tcp.bytes(t), h.out, tcp.toBackend(client4, "10.1.0.2", clientPort, 8090).bytes(t), "1/forwarded")
		svc := service("web", vip4, "", webPorts, "10.1.0.2", "10.1.0.3")
		svc.Backends[0].Condition = model.Down
		p.apply(svc)
		p.expect(h, "udp moved", udp.bytes(t), h.out, udp.toBackend(client4, "10.1.0.3", clientPort, 5353).bytes(t), "1/forwarded")
		p.expect(h, "tcp waits", tcp.bytes(t), h.out, tcp.toBackend(client4, "10.1.0.2", clientPort, 8090).bytes(t), "1/forwarded")
	})
}

// The sum of the addresses does not change: of a checksum that is left to the
// hardware and a whole one, the stack's helper then makes the same.
func TestAddressesThatCancelOut(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		const vip, back = "198.18.0.10", "10.1.188.27" // c612 + 000a = 0a01 + bc1b
		p.apply(service("web", vip, "", webPorts, back))
		for _, f := range []frame{request4(), datagram4()} {
			f.dst = vip
			to := map[bool]uint16{false: 8090, true: 5353}[f.udp]
			p.expect(h, "request", f.bytes(t), h.out, f.toBackend(client4, back, clientPort, to).bytes(t), "1/forwarded")
		}
	})
}
