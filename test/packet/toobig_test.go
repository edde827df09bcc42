// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/fairlead-lb/fairlead/pkg/attach"
	"github.com/fairlead-lb/fairlead/test/feature"
)

// narrowWire makes the wire carry at most mtu bytes until the test ends, and tells the programs.
func narrowWire(p *plane, mtu uint16) {
	p.Helper()
	if err := p.objects.SetIface(wireIndex, 1, attach.IfaceXDPXmit, mtu); err != nil {
		p.Fatal(err)
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(wireIndex)}}
	if err := netlink.LinkSetMTU(link, int(mtu)); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() {
		if err := netlink.LinkSetMTU(link, wireMTU); err != nil {
			p.Error(err)
		}
	})
}

// eachMTU is eachHook with the MTU that the kernel tells and with that of the agent.
func eachMTU(t *testing.T, f func(t *testing.T, p *plane, h hook)) {
	for _, by := range []string{"kernel", "agent"} {
		t.Run("by the "+by, func(t *testing.T) {
			if by == "kernel" {
				feature.Needs(t, feature.CheckMTU)
			}
			for _, h := range hooks {
				t.Run(h.name, func(t *testing.T) {
					if h.name == "xdp" {
						feature.Needs(t, feature.XDPTestContext)
					}
					cfg := small
					cfg.WithoutCheckMTU = by == "agent"
					f(t, newSizedPlane(t, cfg), h)
				})
			}
		})
	}
}

// tooBig is the answer to in, a frame without VLAN tags from MAC from.
func tooBig(in frame, whole []byte, mtu uint16) frame {
	out := frame{srcMAC: nodeMAC, dstMAC: in.srcMAC, src: in.dst, dst: in.src}
	if out.dstMAC == nil {
		out.dstMAC = routerMAC
	}
	if whole[12] == 0x86 {
		out.icmp6 = &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}
		out.icmp6Body = append([]byte{0, 0, byte(mtu >> 8), byte(mtu)}, whole[14:14+48]...)
		return out
	}
	out.icmp4 = &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: mtu}
	out.payload = whole[14 : 14+28]
	return out
}

// Issue "L4 ahead of every anchor", 13: what does not fit the link it must
// leave by is answered with that link's MTU, in both directions; one byte less
// goes on.
func TestTooBigIsAnswered(t *testing.T) {
	const mtu = 1400
	eachMTU(t, func(t *testing.T, p *plane, h hook) {
		narrowWire(p, mtu)
		p.apply(web())
		sized := func(f frame, headers int, size int) frame {
			f.payload = bytes.Repeat([]byte{7}, size-headers)
			return f
		}
		data4, data6 := request4(), request6()
		data4.tcp, data6.tcp = ack(), ack()
		for _, c := range []struct {
			name     string
			req      frame
			headers  int
			to, from string
			dport    uint16
		}{
			{"IPv4 UDP", datagram4(), 28, back4, client4, 5353},
			{"IPv6 UDP", datagram6(), 48, back6, client6, 5353},
			{"IPv4 TCP", data4, 40, back4, client4, 8090},
			{"IPv6 TCP", data6, 60, back6, client6, 8090},
		} {
			c.req.whole = true
			small := sized(c.req, c.headers, mtu)
			p.expect(h, c.name+", fits", small.bytes(t), h.out, small.toBackend(c.from, c.to, clientPort, c.dport).bytes(t), "1/forwarded")
			big := sized(c.req, c.headers, mtu+1)
			in := big.bytes(t)
			p.expect(h, c.name, in, h.bac, tooBig(big, in, mtu).bytes(t), "1/too_big")
			if c.req.tcp != nil {
				continue
			}
			reply := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: c.to, dst: c.from, sport: c.dport, dport: clientPort, udp: true, whole: true}
			small = sized(reply, c.headers, mtu)
			p.expect(h, c.name+" reply, fits", small.bytes(t), h.out, small.toClient(c.req.dst, c.from, 53, clientPort).bytes(t), "1/replied")
			big = sized(reply, c.headers, mtu+1)
			in = big.bytes(t)
			p.expect(h, c.name+" reply", in, h.bac, tooBig(big, in, mtu).bytes(t), "1/too_big")
		}
	})
}

// IPv6 fragments that do not fit are answered, too, so that their sender makes
// smaller ones; the quote has the fragment header. Later ones have no first. Those
// of IPv4 are cut once more (TestCutToFit), unless they may not be.
func TestTooBigFragments(t *testing.T) {
	const mtu = 1300
	eachMTU(t, func(t *testing.T, p *plane, h hook) {
		narrowWire(p, mtu)
		p.apply(web())
		early := h.drop
		counter := "1/fragment"
		if h.name == "xdp" { // the TC program decides
			early, counter = h.pass, "1/handed_to_tc"
		}
		f := big(datagram6())
		parts := fragments6(f.bytes(t), 1448, 99)
		want := frame{
			srcMAC: nodeMAC, dstMAC: routerMAC, src: vip6, dst: client6,
			icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}, icmp6Body: append([]byte{0, 0, mtu >> 8, mtu & 0xff}, parts[0][14:14+56]...),
		}
		p.expect(h, "IPv6", parts[0], h.bac, want.bytes(t), "1/too_big")
		p.expect(h, "IPv6, a later one", parts[1], early, nil, counter)
		f = big(datagram4())
		f.id = 4711
		parts = fragments4(f.bytes(t), 1480)
		parts[0][20] |= 0x40
		checksum4(parts[0])
		p.expect(h, "IPv4", parts[0], h.bac, tooBig(f, parts[0], mtu).bytes(t), "1/too_big")
		p.expect(h, "IPv4, a later one", parts[1], early, nil, counter)
	})
}

// What fits nowhere but ends here is no matter of size.
func TestTooBigComesAfterTTL(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		narrowWire(p, 1280)
		p.apply(web())
		f := datagram4()
		f.ttl, f.payload = 1, make([]byte, 1400)
		in := f.bytes(t)
		want := frame{
			srcMAC: nodeMAC, dstMAC: routerMAC, src: vip4, dst: client4,
			icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(11, 0)}, payload: in[14 : 14+28],
		}
		p.expect(h, "ttl 1", in, h.bac, want.bytes(t), "1/ttl_exceeded")
	})
}

// An IPv6 sender that fragments is told that a fragment was too big: the quote
// has a fragment header. Only the first one has ports.
func TestICMPv6ErrorsAboutFragments(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		req := datagram6()
		p.expect(h, "request", req.bytes(t), h.out, req.toBackend(client6, back6, clientPort, 5353).bytes(t), "1/forwarded")
		reply := big(frame{src: vip6, dst: client6, sport: 53, dport: clientPort, udp: true})
		inner := reply
		inner.src, inner.sport = back6, 5353
		seen, sent := fragments6(reply.bytes(t), 1448, 99), fragments6(inner.bytes(t), 1448, 99)
		about := func(quote []byte) frame {
			return frame{
				src: "2001:db8:77::1", dst: vip6, icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)},
				icmp6Body: append([]byte{0, 0, 5, 0}, quote...),
			}
		}
		first := about(seen[0][14 : 14+56])
		want := about(sent[0][14 : 14+56])
		want.srcMAC, want.dstMAC, want.dst, want.ttl = nodeMAC, backMAC, back6, 63
		copy(want.icmp6Body[4+54:], seen[0][14+54:14+56]) // the inner checksum stays
		p.expect(h, "about the first fragment", first.bytes(t), h.out, want.bytes(t), "1/icmp_forwarded")
		p.expect(h, "about a later one", about(seen[1][14:14+56]).bytes(t), h.pass, nil, "1/not_ours")
	})
}
