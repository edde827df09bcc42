// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// fragments4 cuts an IPv4 datagram into pieces of size bytes, a multiple of 8.
func fragments4(whole []byte, size int) [][]byte {
	const eth, ip = 14, 20
	var out [][]byte
	body := whole[eth+ip:]
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		f := append(bytes.Clone(whole[:eth+ip]), body[at:end]...)
		frag := uint16(at / 8)
		if end < len(body) {
			frag |= 0x2000
		}
		binary.BigEndian.PutUint16(f[eth+2:], uint16(ip+end-at))
		binary.BigEndian.PutUint16(f[eth+6:], frag)
		checksum4(f)
		out = append(out, f)
	}
	return out
}

// checksum4 makes the checksum of an IPv4 header without options right.
func checksum4(frame []byte) {
	const eth, ip = 14, 20
	frame[eth+10], frame[eth+11] = 0, 0
	binary.BigEndian.PutUint16(frame[eth+10:], ^uint16(onesSum(frame[eth:eth+ip])))
}

// fragments6 does the same with fragment headers (RFC 8200, 4.5).
func fragments6(whole []byte, size int, id uint32) [][]byte {
	const eth, ip = 14, 40
	var out [][]byte
	body := whole[eth+ip:]
	for at := 0; at < len(body); at += size {
		end := min(at+size, len(body))
		header := make([]byte, 8)
		header[0] = whole[eth+6]
		offset := uint16(at)
		if end < len(body) {
			offset |= 1
		}
		binary.BigEndian.PutUint16(header[2:], offset)
		binary.BigEndian.PutUint32(header[4:], id)
		f := append(append(bytes.Clone(whole[:eth+ip]), header...), body[at:end]...)
		binary.BigEndian.PutUint16(f[eth+4:], uint16(8+end-at))
		f[eth+6] = byte(layers.IPProtocolIPv6Fragment)
		out = append(out, f)
	}
	return out
}

func big(f frame) frame {
	f.payload = bytes.Repeat([]byte("0123456789abcdef"), 250)
	return f
}

// Issue "L4 ahead of every anchor", 5: fragments in order reach the backend of
// their datagram, with addresses and checksums right; a later one that comes
// first is dropped and counted, never sent to a backend that may be wrong.
func TestFragmentsFollowTheFirst(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		for _, c := range []struct {
			name         string
			req          frame
			client, back string
			cut          func(whole []byte) [][]byte
		}{
			{"IPv4", big(datagram4()), client4, back4, func(b []byte) [][]byte { return fragments4(b, 1480) }},
			{"IPv6", big(datagram6()), client6, back6, func(b []byte) [][]byte { return fragments6(b, 1448, 99) }},
		} {
			c.req.id = 4711
			in := c.cut(c.req.bytes(t))
			want := c.cut(c.req.toBackend(c.client, c.back, clientPort, 5353).bytes(t))
			early := h.drop
			counter := "1/fragment"
			if h.name == "xdp" { // the TC program decides
				early, counter = h.pass, "1/handed_to_tc"
			}
			p.expect(h, c.name+" early", in[1], early, nil, counter)
			for i := range in {
				p.expect(h, c.name, in[i], h.out, want[i], "1/forwarded")
			}
			reply := big(frame{
				srcMAC: backMAC, dstMAC: nodeMAC, src: c.back, dst: c.client, sport: 5353, dport: clientPort, udp: true, id: 815,
			})
			vip := c.req.dst
			in = c.cut(reply.bytes(t))
			want = c.cut(reply.toClient(vip, c.client, 53, clientPort).bytes(t))
			for i := range in {
				p.expect(h, c.name+" reply", in[i], h.out, want[i], "1/replied")
			}
		}
	})
}

func TestForeignFragmentsAreUntouched(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		other := big(datagram4())
		other.dst = "192.0.2.1"
		for _, f := range fragments4(other.bytes(t), 1480) {
			p.expect(h, "somebody else's", f, h.pass, nil, "1/not_ours")
		}
		gre := frame{src: client4, dst: vip4, raw: layers.IPProtocolGRE, payload: make([]byte, 3000)}
		for _, f := range fragments4(gre.bytes(t), 1480) {
			p.expect(h, "no such protocol", f, h.drop, nil, "1/fragment")
		}
	})
}

// An echo request in fragments is answered in fragments, each of its own; what
// follows no first fragment of an echo request is not thrown back.
func TestFragmentedEcho(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		body := bytes.Repeat([]byte("0123456789abcde"), 200)
		ping4 := frame{src: client4, dst: vip4, id: 99, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 3, Seq: 9}, payload: body}
		pong4 := ping4.turned()
		pong4.icmp4, pong4.payload = &layers.ICMPv4{Id: 3, Seq: 9}, body
		ping6 := frame{src: client6, dst: vip6, icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}, icmp6Body: append([]byte{0, 3, 0, 9}, body...)}
		pong6 := ping6.turned()
		pong6.icmp6 = &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(129, 0)}
		for _, c := range []struct {
			name     string
			ask, say [][]byte
		}{
			{"IPv4", fragments4(ping4.bytes(t), 1480), fragments4(pong4.bytes(t), 1480)},
			{"IPv6", fragments6(ping6.bytes(t), 1448, 99), fragments6(pong6.bytes(t), 1448, 99)},
		} {
			p.expect(h, c.name+" early", c.ask[1], h.drop, nil, "1/fragment")
			for i := range c.ask {
				p.expect(h, c.name, c.ask[i], h.bac, c.say[i], "1/echo_answered")
			}
		}
		other := frame{src: client4, dst: vip4, id: 100, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, payload: body}
		for _, f := range fragments4(other.bytes(t), 1480) {
			p.expect(h, "an error in fragments", f, h.drop, nil, "1/fragment")
		}
		ping4.dst = "192.0.2.1"
		for _, f := range fragments4(ping4.bytes(t), 1480) {
			p.expect(h, "somebody else's", f, h.pass, nil, "1/not_ours")
		}
	})
}
