// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/bench/harness"
)

// Ports of the services.
const servicePort, containerPort = 80, 8080

var (
	clients4 = netip.MustParseAddr("10.0.0.0") // all of 10/8
	clients6 = netip.MustParseAddr("2001:db8:9::")
	silent4  = netip.MustParseAddr("11.0.0.0")   // whom nobody answers
	vips4    = netip.MustParseAddr("198.18.0.0") // 198.18/15
	vips6    = netip.MustParseAddr("fd00:198:18::")
	sources4 = netip.MustParseAddr("192.0.2.64") // of mode full-nat
	foreign4 = netip.MustParseAddr("203.0.113.7")
)

// segment is a TCP segment's part in a connection. The client begins at
// sequence number 1000, the backend at 5000; payload is not counted.
type segment int

const (
	syn segment = iota
	ack
	fin
)

// fromClient is the client's segment.
func fromClient(s segment) *layers.TCP {
	t := &layers.TCP{SYN: s == syn, ACK: s != syn, FIN: s == fin, Seq: 1001, Ack: 5001, Window: 502, DstPort: servicePort}
	if s == syn {
		t.Seq, t.Ack = 1000, 0
	}
	return t
}

// fromBackend is the backend's: syn is the SYN-ACK.
func fromBackend(s segment) *layers.TCP {
	t := &layers.TCP{SYN: s == syn, ACK: true, FIN: s == fin, Seq: 5001, Ack: 1001, Window: 502, SrcPort: containerPort}
	if s == syn {
		t.Seq = 5000
	}
	return t
}

// tcp4 is a client's frame, tcp6 the same over IPv6: without the fields that
// the harness fills in.
func tcp4(s segment) harness.Frame {
	return harness.Frame{Kind: harness.Request4, Bytes: frame4(zero(4), layers.IPProtocolTCP, fromClient(s))}
}

func tcp6(s segment) harness.Frame {
	ip := &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: clients6.AsSlice(), DstIP: vips6.AsSlice(),
	}
	return harness.Frame{Kind: harness.Request6, Bytes: frame(layers.EthernetTypeIPv6, ip, fromClient(s))}
}

// refused4 is a SYN to a port no service has.
func refused4() harness.Frame {
	t := fromClient(syn)
	t.DstPort = 9
	return harness.Frame{Kind: harness.Request4, Bytes: frame4(zero(4), layers.IPProtocolTCP, t)}
}

// reply4 is a backend's frame to a client.
func reply4(back netip.Addr, s segment) harness.Frame {
	return harness.Frame{Kind: harness.Reply4, Bytes: frame4(back.AsSlice(), layers.IPProtocolTCP, fromBackend(s))}
}

// udp4 is a client's datagram, answer4 a backend's.
func udp4() harness.Frame {
	u := &layers.UDP{DstPort: servicePort}
	return harness.Frame{Kind: harness.Request4, Bytes: frame4(zero(4), layers.IPProtocolUDP, u)}
}

func answer4(back netip.Addr) harness.Frame {
	u := &layers.UDP{SrcPort: containerPort}
	return harness.Frame{Kind: harness.Reply4, Bytes: frame4(back.AsSlice(), layers.IPProtocolUDP, u)}
}

// echo4 is a ping.
func echo4() harness.Frame {
	icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Seq: 1}
	return harness.Frame{Kind: harness.Echo4, Bytes: frame4(zero(4), layers.IPProtocolICMPv4, icmp)}
}

func frame4(src []byte, proto layers.IPProtocol, l4 gopacket.SerializableLayer) []byte {
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: proto, SrcIP: src, DstIP: zero(4)}
	return frame(layers.EthernetTypeIPv4, ip, l4)
}

func zero(n int) []byte { return make([]byte, n) }

// frame serializes headers and fills the frame up with payload. The checksums
// are wrong once the harness has written a tuple; the programs only correct
// them by what they change.
func frame(ether layers.EthernetType, ip, l4 gopacket.SerializableLayer) []byte {
	eth := &layers.Ethernet{SrcMAC: routerMAC, DstMAC: nodeMAC, EthernetType: ether}
	room := harness.Size - 14 - 20
	if ether == layers.EthernetTypeIPv6 {
		room -= 20
	}
	switch l := l4.(type) {
	case *layers.TCP:
		room -= 20
		_ = l.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	case *layers.UDP:
		room -= 8
		_ = l.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	case *layers.ICMPv4:
		room -= 8
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, eth, ip, l4, gopacket.Payload(make([]byte, room))); err != nil {
		panic(fmt.Sprintf("build a frame of the benchmark: %v", err)) // its input is constant
	}
	return buf.Bytes()
}
