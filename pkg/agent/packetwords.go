// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strconv"
	"strings"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// IP protocol numbers (IANA).
const (
	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58
)

func protocolName(p uint8) string {
	switch p {
	case 0:
		return "" // the headers were not read so far
	case protoICMP:
		return "icmp"
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoICMP6:
		return "icmp6"
	}
	return strconv.Itoa(int(p))
}

// tcpFlags are the bits of byte 13 of a TCP header, in the order people say
// them.
var tcpFlags = []struct {
	bit  uint8
	name string
}{{0x02, "SYN"}, {0x01, "FIN"}, {0x04, "RST"}, {0x08, "PSH"}, {0x20, "URG"}, {0x10, "ACK"}}

// icmpTypes and icmp6Types are those that pass a load balancer (RFC 792, RFC 4443).
var (
	icmpTypes = map[uint8]string{
		0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded", 12: "parameter problem",
	}
	icmp6Types = map[uint8]string{
		1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request", 129: "echo reply",
		133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation", 136: "neighbour advertisement",
	}
)

// flagsOf is what tells packets of one tuple apart: TCP flags, the ICMP type.
func flagsOf(e *bpf.TraceEvent) string {
	var types map[uint8]string
	switch e.Key.Proto {
	case protoTCP:
		var set []string
		for _, f := range tcpFlags {
			if e.TCPFlags&f.bit != 0 {
				set = append(set, f.name)
			}
		}
		return strings.Join(set, " ")
	case protoICMP:
		types = icmpTypes
	case protoICMP6:
		types = icmp6Types
	default:
		return ""
	}
	if name, ok := types[e.ICMPType]; ok {
		return name
	}
	return "type " + strconv.Itoa(int(e.ICMPType))
}
