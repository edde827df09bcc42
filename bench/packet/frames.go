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
	vips4    = netip.MustParseAddr("198.18.0.0") // 198.18/15
	vips6    = netip.MustParseAddr("fd00:198:18::")
	foreign4 = netip.MustParseAddr("203.0.113.7")
)

// TCP flags of the frames.
type flags int

const (
	syn flags = iota
	ack
	fin
)

func tcpLayer(f flags) *layers.TCP {
	return &layers.TCP{
		SYN: f == syn, ACK: f != syn, FIN: f == fin, PSH: f == ack,
		Seq: 1000, Ack: 5000, Window: 502, DstPort: servicePort,
	}
}

// tcp4 is a client's frame to the first VIP without the fields that the
// harness fills in.
func tcp4(f flags) []byte {
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: zero(4), DstIP: zero(4)}
	return frame(layers.EthernetTypeIPv4, ip, tcpLayer(f))
}

// tcp6 is the same over IPv6; the last words of its addresses are zero.
func tcp6(f flags) []byte {
	ip := &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: clients6.AsSlice(), DstIP: vips6.AsSlice(),
	}
	return frame(layers.EthernetTypeIPv6, ip, tcpLayer(f))
}

// refused4 is a SYN to a port no service has.
func refused4() []byte {
	t := tcpLayer(syn)
	t.DstPort = 9
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: zero(4), DstIP: zero(4)}
	return frame(layers.EthernetTypeIPv4, ip, t)
}

// reply4 is a backend's answer to a client.
func reply4(back netip.Addr) []byte {
	t := tcpLayer(ack)
	t.SrcPort, t.DstPort = containerPort, 0
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: back.AsSlice(), DstIP: zero(4)}
	return frame(layers.EthernetTypeIPv4, ip, t)
}

// echo4 is a ping.
func echo4() []byte {
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: zero(4), DstIP: zero(4)}
	return frame(layers.EthernetTypeIPv4, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Seq: 1})
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
