// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/dataplane"
)

// What becomes of handshakes is read from the entries that they leave: of TCP
// services with and without entries of their own, in both families.
func TestL04FailedHandshakesAreSeen(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		svc := web()
		shared := service("shared", "198.18.0.11", "fd00:198:18::11", webPorts, back4, back6)
		for _, entries := range []bool{false, true} {
			p.apply(svc)
			if entries {
				p.apply(svc, shared) // one replica behind two services: flows need entries
			}
			s := dataplane.NewSigns(p.objects)
			look := func() (out []string) {
				err := s.EachFailure(func(to netip.AddrPort, how string, count int) {
					out = append(out, fmt.Sprintf("%s %s %d", to, how, count))
				})
				if err != nil {
					p.Fatal(err)
				}
				return out
			}
			look()
			port := uint16(30000)
			handshake := func(req frame, back, client string, answer func(syn frame, sent []byte) []byte) {
				port++
				req.sport = port
				p.send(h.prog(p), req.bytes(t))
				to := req.toBackend(client, back, port, 8090)
				if answer != nil {
					p.send(h.prog(p), answer(to, to.bytes(t)))
				}
			}
			segment := func(tcp layers.TCP) func(frame, []byte) []byte {
				return func(f frame, _ []byte) []byte {
					f.srcMAC, f.dstMAC, f.ttl = backMAC, nodeMAC, 64
					f.src, f.dst, f.sport, f.dport, f.tcp = f.dst, f.src, f.dport, f.sport, &tcp
					return f.bytes(t)
				}
			}
			gone4 := func(code uint8) func(frame, []byte) []byte {
				return func(f frame, sent []byte) []byte {
					return frame{
						srcMAC: backMAC, dstMAC: nodeMAC, src: "10.1.0.1", dst: f.src,
						icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, code)}, payload: sent[14 : 14+28],
					}.bytes(t)
				}
			}
			gone6 := func(f frame, sent []byte) []byte {
				return frame{
					srcMAC: backMAC, dstMAC: nodeMAC, src: "fd00:1::1", dst: f.src,
					icmp6: &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 3)}, icmp6Body: append(make([]byte, 4), sent[14:14+48]...),
				}.bytes(t)
			}
			refuse := layers.TCP{RST: true, ACK: true, Ack: 1001}
			handshake(request4(), back4, client4, segment(refuse))
			handshake(request4(), back4, client4, segment(refuse))
			handshake(request4(), back4, client4, segment(*synAck()))
			handshake(request4(), back4, client4, gone4(1)) // no host
			handshake(request4(), back4, client4, gone4(4)) // too big: it is there
			handshake(request6(), back6, client6, gone6)
			handshake(request6(), back6, client6, nil)
			for now, _, err := p.objects.Clock(); ; { // a reading tells of the jiffies before its own
				next, _, nextErr := p.objects.Clock()
				if err != nil || nextErr != nil {
					p.Fatal(err, nextErr)
				}
				if next > now {
					break
				}
			}
			want := []string{back4 + ":8090 refused 2", back4 + ":8090 unreachable 1", "[" + back6 + "]:8090 unreachable 1"}
			if got := look(); !slices.Equal(got, want) {
				t.Errorf("entries %v: %q, want %q", entries, got, want)
			}
			if got := look(); len(got) != 0 {
				t.Errorf("entries %v: told again: %q", entries, got)
			}
		}
	})
}
