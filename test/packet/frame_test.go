// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const (
	vip4, vip6       = "198.18.0.10", "fd00:198:18::10"
	back4, back6     = "10.1.0.2", "fd00:1::2"
	client4, client6 = "203.0.113.9", "2001:db8:9::9"
	clientPort       = 40000
)

// frame describes one packet; the zero value of a field is left out or usual.
type frame struct {
	srcMAC, dstMAC net.HardwareAddr
	vlans          []uint16
	src, dst       string
	ttl            uint8 // default 64
	tos            uint8
	id             uint16
	options        []layers.IPv4Option
	proto          layers.IPProtocol // of the L4 header, from the fields below
	fragOffset     uint16
	moreFragments  bool
	whole          bool // may not be fragmented (IPv4)
	sport, dport   uint16
	tcp            *layers.TCP
	udp            bool
	noChecksum     bool // UDP checksum 0 (IPv4)
	icmp4          *layers.ICMPv4
	icmp6          *layers.ICMPv6
	icmp6Body      []byte
	raw            layers.IPProtocol // any other protocol, with payload
	payload        []byte
}

func ip(s string) net.IP { return netip.MustParseAddr(s).AsSlice() }

func (f frame) ipLayer(t testing.TB) (gopacket.NetworkLayer, gopacket.SerializableLayer, layers.EthernetType) {
	t.Helper()
	ttl := f.ttl
	if ttl == 0 {
		ttl = 64
	}
	if netip.MustParseAddr(f.src).Is4() {
		l := &layers.IPv4{
			Version: 4, IHL: 5, TTL: ttl, TOS: f.tos, Id: f.id, SrcIP: ip(f.src), DstIP: ip(f.dst),
			Protocol: f.proto, Options: f.options, FragOffset: f.fragOffset,
		}
		if f.moreFragments {
			l.Flags = layers.IPv4MoreFragments
		}
		if f.whole {
			l.Flags |= layers.IPv4DontFragment
		}
		return l, l, layers.EthernetTypeIPv4
	}
	l := &layers.IPv6{Version: 6, HopLimit: ttl, TrafficClass: f.tos, SrcIP: ip(f.src), DstIP: ip(f.dst), NextHeader: f.proto}
	return l, l, layers.EthernetTypeIPv6
}

// bytes serializes the frame with right lengths and checksums.
func (f frame) bytes(t testing.TB) []byte {
	t.Helper()
	if f.srcMAC == nil {
		f.srcMAC, f.dstMAC = routerMAC, nodeMAC
	}
	l4, proto := f.l4()
	f.proto = proto
	network, ipl, etherType := f.ipLayer(t)
	for _, l := range l4 {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(network); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := etherType
	if len(f.vlans) > 0 {
		first = layers.EthernetTypeDot1Q
	}
	all := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: f.srcMAC, DstMAC: f.dstMAC, EthernetType: first}}
	for i, v := range f.vlans {
		inner := etherType
		if i+1 < len(f.vlans) {
			inner = layers.EthernetTypeDot1Q
		}
		all = append(all, &layers.Dot1Q{VLANIdentifier: v, Type: inner})
	}
	all = append(append(append(all, ipl), l4...), gopacket.Payload(f.payload))
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	out := buf.Bytes()
	if f.noChecksum {
		at := len(out) - len(f.payload) - 2
		out[at], out[at+1] = 0, 0
	}
	return out
}

func (f frame) l4() ([]gopacket.SerializableLayer, layers.IPProtocol) {
	switch {
	case f.tcp != nil:
		tcp := *f.tcp
		tcp.SrcPort, tcp.DstPort = layers.TCPPort(f.sport), layers.TCPPort(f.dport)
		return []gopacket.SerializableLayer{&tcp}, layers.IPProtocolTCP
	case f.udp:
		return []gopacket.SerializableLayer{&layers.UDP{SrcPort: layers.UDPPort(f.sport), DstPort: layers.UDPPort(f.dport)}}, layers.IPProtocolUDP
	case f.icmp4 != nil:
		icmp := *f.icmp4
		return []gopacket.SerializableLayer{&icmp}, layers.IPProtocolICMPv4
	case f.icmp6 != nil:
		icmp := *f.icmp6
		return []gopacket.SerializableLayer{&icmp, gopacket.Payload(f.icmp6Body)}, layers.IPProtocolICMPv6
	}
	return nil, f.raw
}

// backend is what a client's frame looks like after translation.
func (f frame) toBackend(src, dst string, sport, dport uint16) frame {
	f.srcMAC, f.dstMAC = nodeMAC, backMAC
	return f.moved(src, dst, sport, dport)
}

// toClient is what a backend's frame looks like after translation.
func (f frame) toClient(src, dst string, sport, dport uint16) frame {
	f.srcMAC, f.dstMAC = nodeMAC, routerMAC
	return f.moved(src, dst, sport, dport)
}

func (f frame) moved(src, dst string, sport, dport uint16) frame {
	f.src, f.dst, f.sport, f.dport = src, dst, sport, dport
	if f.ttl == 0 {
		f.ttl = 64
	}
	f.ttl--
	f.vlans = nil
	return f
}

func syn() *layers.TCP {
	return &layers.TCP{
		SYN: true, Seq: 1000, Window: 64240,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}}},
	}
}

func synAck() *layers.TCP {
	return &layers.TCP{SYN: true, ACK: true, Seq: 5000, Ack: 1001, Window: 65160}
}
func ack() *layers.TCP { return &layers.TCP{ACK: true, Seq: 1001, Ack: 5001, Window: 502} }

func request4() frame {
	return frame{src: client4, dst: vip4, sport: clientPort, dport: 90, tcp: syn(), id: 77}
}

func request6() frame {
	return frame{src: client6, dst: vip6, sport: clientPort, dport: 90, tcp: syn()}
}

func datagram4() frame {
	return frame{src: client4, dst: vip4, sport: clientPort, dport: 53, udp: true, payload: []byte("query")}
}

func datagram6() frame {
	return frame{src: client6, dst: vip6, sport: clientPort, dport: 53, udp: true, payload: []byte("query")}
}
