// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// sums are the checksums of a frame without VLAN tags, extension headers or
// fragments: whether the frame has any that can be judged, and whether they
// are right.
func sums(b []byte) (judged, right bool) {
	if len(b) < 34 {
		return false, false
	}
	l3 := b[14:]
	var pseudo, l4 []byte
	var proto byte
	switch {
	case b[12] == 8 && b[13] == 0 && l3[0] == 0x45:
		n := int(binary.BigEndian.Uint16(l3[2:]))
		if n < 20 || n > len(l3) || binary.BigEndian.Uint16(l3[6:])&0x3fff != 0 {
			return false, false
		}
		if onesSum(l3[:20]) != 0xffff {
			return true, false
		}
		proto, l4 = l3[9], l3[20:n]
		pseudo = append(bytes.Clone(l3[12:20]), 0, proto, byte(len(l4)>>8), byte(len(l4)))
	case b[12] == 0x86 && b[13] == 0xdd && len(l3) >= 40 && l3[0]>>4 == 6:
		n := 40 + int(binary.BigEndian.Uint16(l3[4:]))
		if n > len(l3) {
			return false, false
		}
		proto, l4 = l3[6], l3[40:n]
		pseudo = append(bytes.Clone(l3[8:40]), 0, 0, byte(len(l4)>>8), byte(len(l4)), 0, 0, 0, proto)
	default:
		return false, false
	}
	switch {
	case proto == 6 && len(l4) >= 20, proto == 58 && len(l4) >= 8:
	case proto == 17 && len(l4) >= 8:
		if int(binary.BigEndian.Uint16(l4[4:])) != len(l4) {
			return false, false
		}
		if l4[6] == 0 && l4[7] == 0 {
			return true, true
		}
	case proto == 1 && len(l4) >= 8:
		pseudo = nil
	default:
		return false, false
	}
	if len(l4)%2 == 1 {
		l4 = append(bytes.Clone(l4), 0)
	}
	return true, onesSum(append(pseudo, l4...)) == 0xffff
}

// judge checks what must hold for every frame whatever it is.
func judge(t *testing.T, h hook, in []byte, verdict uint32, out []byte) {
	t.Helper()
	switch verdict {
	case h.pass:
		if !bytes.Equal(in, out) {
			t.Fatalf("%s passed a frame and changed it\n%s\n%s", h.name, hex.Dump(in), hex.Dump(out))
		}
	case h.drop:
	case h.out, xdpRedirect:
		if len(out) > len(in)+48 {
			t.Fatalf("%s made %d bytes of %d", h.name, len(out), len(in))
		}
		inJudged, inRight := sums(in)
		outJudged, outRight := sums(out)
		if inJudged && inRight && (!outJudged || !outRight) {
			t.Fatalf("%s made a wrong checksum or length\n%s\n%s", h.name, hex.Dump(in), hex.Dump(out))
		}
		if inJudged && !inRight && outJudged && outRight && !isOwnAnswer(out) {
			t.Fatalf("%s made a broken packet whole\n%s\n%s", h.name, hex.Dump(in), hex.Dump(out))
		}
	default:
		t.Fatalf("%s: verdict %d\n%s", h.name, int32(verdict), hex.Dump(in))
	}
}

// isOwnAnswer tells a RST or an ICMP error, whose checksums are made anew.
func isOwnAnswer(b []byte) bool {
	l3 := b[14:]
	if b[12] == 8 {
		return l3[9] == 1 || l3[9] == 6 && l3[33]&4 != 0
	}
	return l3[6] == 58 || l3[6] == 6 && l3[53]&4 != 0
}

// corpus is one good frame of every kind, to be mutated.
func corpus(t testing.TB) [][]byte {
	data, data6 := request4(), request6()
	data.tcp, data6.tcp = ack(), ack()
	data.payload, data6.payload = []byte("some data"), []byte("some data")
	opts := request4()
	opts.options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
	tagged := request4()
	tagged.vlans = []uint16{7}
	ping := frame{src: client4, dst: vip4, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 1}, payload: []byte("ping")}
	ping6 := frame{src: client6, dst: vip6, icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}, icmp6Body: make([]byte, 12)}
	back := frame{src: back4, dst: client4, sport: 8090, dport: clientPort, tcp: synAck()}
	back6 := frame{src: back6, dst: client6, sport: 8090, dport: clientPort, tcp: synAck()}
	udp := datagram4().bytes(t)
	unreachable := frame{src: back4, dst: client4, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, payload: udp[14 : 14+28]}
	var out [][]byte
	for _, f := range []frame{request4(), request6(), datagram4(), datagram6(), data, data6, opts, tagged, ping, ping6, back, back6, unreachable} {
		out = append(out, f.bytes(t))
	}
	out = append(out, fragments4(big(datagram4()).bytes(t), 1480)...)
	out = append(out, fragments6(big(datagram6()).bytes(t), 1448, 5)...)
	return out
}

// mutate changes a few bits, bytes or lengths; sometimes it mends the IPv4
// header checksum afterwards, so that more gets past the first look.
func mutate(r *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	for range r.IntN(5) {
		switch r.IntN(6) {
		case 0:
			b[r.IntN(min(len(b), 80))] ^= 1 << r.IntN(8)
		case 1:
			b[r.IntN(min(len(b), 80))] = byte(r.Uint32())
		case 2:
			b[12+r.IntN(min(len(b)-12, 60))] = []byte{0, 1, 0x7f, 0x80, 0xff, 4, 6, 17, 43, 44, 58, 60}[r.IntN(12)]
		case 3:
			b = b[:max(14+20, r.IntN(len(b)+1))]
		case 4:
			b = append(b, make([]byte, r.IntN(64))...)
		case 5:
			copy(b[14+r.IntN(20):], b[14:min(len(b), 14+r.IntN(40))])
		}
	}
	if r.IntN(2) == 0 && len(b) >= 34 && b[12] == 8 && b[14] == 0x45 {
		b[24], b[25] = 0, 0
		binary.BigEndian.PutUint16(b[24:], ^uint16(onesSum(b[14:34])))
	}
	return b
}

// Issue "L4 ahead of every anchor", 12: random and mutated frames. What passes
// is bit-identical, what is sent has right checksums if it came with right
// ones, and nothing broken becomes whole. The recorded long run has
// FAIRLEAD_TEST_FRAMES=10000000.
func TestMutatedFrames(t *testing.T) {
	n := 40_000
	if v, err := strconv.Atoi(os.Getenv("FAIRLEAD_TEST_FRAMES")); err == nil {
		n = v
	}
	eachHook(t, func(p *plane, h hook) {
		affine := service("affine", "198.18.0.11", "fd00:198:18::11", webPorts, "10.1.0.3", "fd00:1::3")
		affine.Balance = model.Balance{Affinity: "client-ip"}
		p.apply(web(), affine)
		seeds := corpus(t)
		r := rand.New(rand.NewPCG(12, 34))
		sent := 0
		for range n {
			in := mutate(r, seeds[r.IntN(len(seeds))])
			if h.name == "tc" && len(in) < 14+40 {
				continue // a TC test run refuses frames shorter than their IP header itself
			}
			verdict, out := p.send(h.prog(p), bytes.Clone(in))
			judge(t, h, in, verdict, out)
			if judged, right := sums(in); judged && right && verdict == h.out {
				sent++
			}
		}
		if sent < n/20 {
			t.Errorf("only %d of %d frames were whole and sent on: the mutations are too wild to test anything", sent, n)
		}
	})
}
