// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// turned is an answer to f: addresses and ports swapped, TTL 64.
func (f frame) turned() frame {
	f.srcMAC, f.dstMAC = nodeMAC, routerMAC
	f.src, f.dst, f.sport, f.dport = f.dst, f.src, f.dport, f.sport
	f.ttl, f.payload, f.tcp, f.udp = 64, nil, nil, false
	return f
}

// Row A02: what a VIP does not serve is refused at once, as by a host.
func TestA02UnservedTCPPortIsReset(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		for _, base := range []frame{request4(), request6()} {
			f := base
			f.dport = 8090
			rst := f.turned()
			rst.tcp = &layers.TCP{RST: true, ACK: true, Ack: 1001}
			p.expect(h, "syn", f.bytes(t), h.bac, trim(rst, t), "1/port_refused")

			f.tcp, f.payload = ack(), []byte("late data")
			rst.tcp = &layers.TCP{RST: true, Seq: 5001}
			p.expect(h, "data", f.bytes(t), h.bac, trim(rst, t), "1/port_refused")

			f.tcp, f.payload = &layers.TCP{RST: true, Seq: 7}, nil
			p.expect(h, "a reset is not answered", f.bytes(t), h.drop, nil, "1/unanswerable")
		}
	})
}

// trim serializes without Ethernet's padding to 60 bytes, which the programs
// leave to the device.
func trim(f frame, t *testing.T) []byte {
	b := f.bytes(t)
	n := 54
	if b[12] == 0x86 {
		n = 74
	}
	return b[:n]
}

func TestA02UnservedUDPPortIsUnreachable(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		f := datagram4()
		f.dport = 54
		in := f.bytes(t)
		want := frame{
			srcMAC: nodeMAC, dstMAC: routerMAC, src: vip4, dst: client4,
			icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, payload: in[14 : 14+28],
		}
		p.expect(h, "IPv4", in, h.bac, want.bytes(t), "1/port_refused")

		f = datagram6()
		f.dport = 54
		in = f.bytes(t)
		want = frame{
			srcMAC: nodeMAC, dstMAC: routerMAC, src: vip6, dst: client6,
			icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}, icmp6Body: append(make([]byte, 4), in[14:14+48]...),
		}
		p.expect(h, "IPv6", in, h.bac, want.bytes(t), "1/port_refused")
	})
}

func TestNoBackendIsRefused(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		svc := service("web", vip4, "", webPorts, back4)
		svc.Backends[0].Condition = model.Draining
		p.apply(svc)
		rst := request4().turned()
		rst.tcp = &layers.TCP{RST: true, ACK: true, Ack: 1001}
		p.expect(h, "syn", request4().bytes(t), h.bac, trim(rst, t), "1/no_backend")
	})
}

func TestEchoOfAVIP(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		for _, size := range []int{0, 1, 56, 1400} {
			body := bytes.Repeat([]byte{0xa5}, size)
			ping := frame{src: client4, dst: vip4, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 3, Seq: 9}, payload: body}
			pong := ping.turned()
			pong.icmp4, pong.payload = &layers.ICMPv4{Id: 3, Seq: 9}, body
			p.expect(h, "IPv4", ping.bytes(t), h.bac, pong.bytes(t), "1/echo_answered")
			ping = frame{src: client6, dst: vip6, icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}, icmp6Body: append([]byte{0, 3, 0, 9}, body...)}
			pong = ping.turned()
			pong.icmp6 = &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(129, 0)}
			p.expect(h, "IPv6", ping.bytes(t), h.bac, pong.bytes(t), "1/echo_answered")
		}
	})
}

// The checksum of an echo answer is right over every carry.
func TestEchoChecksumOverAllCarries(t *testing.T) {
	p := newPlane(t)
	p.apply(web())
	for i := range 1 << 16 {
		ping := frame{src: client4, dst: vip4, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: uint16(i)}}
		_, out, err := p.objects.Programs().XDP.Test(append(ping.bytes(t), make([]byte, 4)...))
		if err != nil {
			t.Fatal(err)
		}
		if sum := onesSum(out[34:42]); sum != 0xffff {
			t.Fatalf("id %d: the answer's checksum %x does not fit", i, out[36:38])
		}
	}
}

// onesSum adds up 16-bit words as RFC 1071 does; a whole message gives 0xffff.
func onesSum(b []byte) uint32 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}

func TestTTLEndsHere(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		f := request4()
		f.ttl = 1
		in := f.bytes(t)
		want := frame{
			srcMAC: nodeMAC, dstMAC: routerMAC, src: vip4, dst: client4,
			icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(11, 0)}, payload: in[14 : 14+28],
		}
		p.expect(h, "IPv4", in, h.bac, want.bytes(t), "1/ttl_exceeded")
		f = request6()
		f.ttl = 1
		in = f.bytes(t)
		want = frame{
			srcMAC: nodeMAC, dstMAC: routerMAC, src: vip6, dst: client6,
			icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(3, 0)}, icmp6Body: append(make([]byte, 4), in[14:14+48]...),
		}
		p.expect(h, "IPv6", in, h.bac, want.bytes(t), "1/ttl_exceeded")
	})
}

func TestOtherProtocolsToAVIPAreDropped(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		gre := frame{src: client4, dst: vip4, raw: layers.IPProtocolGRE, payload: make([]byte, 24)}
		p.expect(h, "gre", gre.bytes(t), h.drop, nil, "1/protocol")
		gre.dst = "192.0.2.1"
		p.expect(h, "gre elsewhere", gre.bytes(t), h.pass, nil, "1/not_ours")
	})
}

// Broken packets are counted; what cannot be read is left to the kernel, what
// is addressed to a VIP goes nowhere.
func TestBrokenPackets(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		for name, mutate := range map[string]func([]byte) []byte{
			"cut in the TCP header": func(b []byte) []byte { return b[:40] },
			"total length too long": func(b []byte) []byte { b[16], b[17] = 0x40, 0; return b },
			"total length too short": func(b []byte) []byte {
				b[16], b[17] = 0, 19
				return b
			},
			"header length 4":       func(b []byte) []byte { b[14] = 0x44; return b },
			"header past the end":   func(b []byte) []byte { b[14] = 0x4f; return b },
			"version 5":             func(b []byte) []byte { b[14] = 0x55; return b },
			"data offset too short": func(b []byte) []byte { b[46] = 0x40; return b },
			"data offset too long":  func(b []byte) []byte { b[46] = 0xf0; return b },
		} {
			broken := mutate(request4().bytes(t))
			p.expect(h, name, broken, h.drop, nil, "1/bad_packet")
			elsewhere := mutate(frame{src: client4, dst: "192.0.2.1", sport: 1, dport: 90, tcp: syn()}.bytes(t))
			p.expect(h, name+", elsewhere", elsewhere, h.pass, nil, "1/malformed")
		}
		if h.name == "xdp" { // a TC test run refuses such frames itself
			p.expect(h, "cut in the IP header", request4().bytes(t)[:30], h.pass, nil, "1/malformed")
		}
		long := datagram4().bytes(t)
		long[38], long[39] = 0x10, 0
		p.expect(h, "UDP length too long", long, h.drop, nil, "1/bad_packet")
	})
}

// ICMP errors about a flow reach its other side, with the quote translated,
// also with no more than the 8 bytes of RFC 792.
func TestICMPErrorsFollowTheFlow(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		req := datagram4()
		sent := req.toBackend(client4, back4, clientPort, 5353).bytes(t)
		p.expect(h, "request", req.bytes(t), h.out, sent, "1/forwarded")

		closed := frame{
			srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: client4,
			icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, payload: sent[14 : 14+28],
		}
		quote := req
		quote.ttl = 63
		want := closed
		want.srcMAC, want.dstMAC, want.src, want.ttl = nodeMAC, routerMAC, vip4, 63
		want.payload = quote.bytes(t)[14 : 14+28]
		// The inner UDP checksum is left as the backend saw it: RFC 5508 asks for no more.
		copy(want.payload[26:28], sent[14+26:14+28])
		p.expect(h, "port unreachable from the backend", closed.bytes(t), h.out, want.bytes(t), "1/icmp_forwarded")

		// A router on the way to the client wants smaller packets.
		reply := frame{src: vip4, dst: client4, sport: 53, dport: clientPort, udp: true, payload: bytes.Repeat([]byte{1}, 1400)}
		seen := reply.bytes(t)
		big := frame{
			src: "192.0.2.77", dst: vip4,
			icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1280}, payload: seen[14 : 14+28],
		}
		inner := reply
		inner.src, inner.sport = back4, 5353
		want = big
		want.srcMAC, want.dstMAC, want.dst, want.ttl = nodeMAC, backMAC, back4, 63
		want.payload = inner.bytes(t)[14 : 14+28]
		copy(want.payload[26:28], seen[14+26:14+28])
		p.expect(h, "frag needed to the backend", big.bytes(t), h.out, want.bytes(t), "1/icmp_forwarded")
	})
}

func TestICMPv6ErrorsFollowTheFlow(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		req := datagram6()
		p.expect(h, "request", req.bytes(t), h.out, req.toBackend(client6, back6, clientPort, 5353).bytes(t), "1/forwarded")
		reply := frame{src: vip6, dst: client6, sport: 53, dport: clientPort, udp: true, payload: bytes.Repeat([]byte{1}, 1400)}
		seen := reply.bytes(t)
		big := frame{
			src: "2001:db8:77::1", dst: vip6, icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)},
			icmp6Body: append([]byte{0, 0, 5, 0}, seen[14:14+48]...),
		}
		inner := reply
		inner.src, inner.dst, inner.sport = back6, client6, 5353
		want := big
		want.srcMAC, want.dstMAC, want.dst, want.ttl = nodeMAC, backMAC, back6, 63
		want.icmp6Body = append([]byte{0, 0, 5, 0}, inner.bytes(t)[14:14+48]...)
		copy(want.icmp6Body[4+46:], seen[14+46:14+48])
		p.expect(h, "packet too big", big.bytes(t), h.out, want.bytes(t), "1/icmp_forwarded")
	})
}
