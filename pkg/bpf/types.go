// SPDX-License-Identifier: Apache-2.0

package bpf

import "net/netip"

// Backend flags (enum in bpf/lib/types.h).
const (
	BackendUsed uint8 = 1 << iota // the entry is in use
	BackendOpen                   // takes new connections
	BackendDown                   // unhealthy: UDP flows leave it at once
	BackendMAC                    // DMAC and SMAC are known
	BackendXDP                    // XDP may redirect to IfIndex
	BackendPeer                   // IfIndex is a veth into another namespace
)

// Flow flags and states (enums in bpf/lib/types.h).
const (
	FlowReply  uint8 = 1 << 0 // translates replies
	FlowSingle uint8 = 1 << 1 // the client's direction has no entry
	FlowNAT    uint8 = 1 << 2 // holds a source port
	FlowLeast  uint8 = 1 << 3 // is counted in its backend's load

	FlowFinClient  uint8 = 1 << 0
	FlowFinBackend uint8 = 1 << 1
	FlowRST        uint8 = 1 << 2
	FlowAnswered   uint8 = 1 << 3 // the backend's SYN-ACK, or a datagram of it, was seen; in the replies' entry
	FlowUnreached  uint8 = 1 << 4 // an ICMP error came instead; in the replies' entry
	FlowReturned   uint8 = 1 << 5 // what it held is free for others
)

// ServiceKey is one served address, port and protocol. Port 0 with protocol 0
// marks the address as a VIP: what it does not serve is refused.
type ServiceKey struct {
	VIP   netip.Addr
	Port  uint16
	Proto uint8
}

// Service is the table of one ServiceKey: Slots [Base, Base+Len).
type Service struct {
	ID   uint32 // index of its counters
	Base uint32
	Len  uint32 // 0: no backend

	AllowOnly bool   // only sources in the allow list (PutAllow)
	Affinity  uint32 // seconds a client stays with its backend; 0: off
	Rate      uint32 // new connections a second and client; 0: any number
	Burst     uint32

	// Flows: a packet goes where its flow entry says, not where the table does.
	Flows bool
	NAT   bool // backends see a source (PutSource) in place of the client; needs Flows
	Least bool // new flows go to the least loaded of some backends; needs Flows
	Wakes bool // TCP: sockets of this host may hold connections to it
	Sleep bool // they take the new ones; needs Wakes
	// Old are tables that live flows may still follow, newest first; unused
	// ones are zero and last.
	Old [OldTables]Table
}

// OldTables is OLD_TABLES of bpf/lib/types.h.
const OldTables = 3

// Table is a run of slots.
type Table struct{ Base, Len uint32 }

// Allow lets the sources of a prefix connect to a service id.
type Allow struct {
	Service uint32
	Source  netip.Prefix
}

// Backend is one replica address and container port with the way to it.
type Backend struct {
	Addr    netip.Addr
	Port    uint16
	Proto   uint8
	Flags   uint8
	IfIndex uint32
	DMAC    [6]byte
	SMAC    [6]byte
	Service uint32
	Weight  uint32 // where the load decides
	// Release is when the drain ends, in seconds of CLOCK_MONOTONIC, for the next
	// agent; 0: it does not drain.
	Release uint32
}

// FlowKey is a tuple as seen on the wire.
type FlowKey struct {
	Src, Dst netip.AddrPort
	Proto    uint8
}

// Flow is what packets of a FlowKey become.
type Flow struct {
	Src, Dst netip.AddrPort
	Backend  uint32
	Service  uint32
	IfIndex  uint32
	Flags    uint8
	State    uint8
	Source   uint16 // with FlowNAT: index of the source
	Hash     uint32 // of the client's direction: its slot in any table
	ISN      uint32 // of the backend
	Seen     uint32 // jiffies, modulo 2³²
}

// Twin is the key of the flow's other direction.
func (f Flow) Twin(proto uint8) FlowKey { return FlowKey{Src: f.Dst, Dst: f.Src, Proto: proto} }

// Turned is the entry of the other direction, of a flow whose entry for k this is.
func (f Flow) Turned(k FlowKey) Flow {
	f.Src, f.Dst, f.Flags = k.Dst, k.Src, f.Flags^FlowReply
	return f
}

// ServiceStats are the counters of one service id, summed over the CPUs.
type ServiceStats struct {
	Connections, PacketsIn, BytesIn, PacketsOut, BytesOut uint64
	Reopened                                              uint64 // flows whose entry was lost and made again
}

func (k ServiceKey) kernel() lbServiceKey {
	out := lbServiceKey{Port: swap16(k.Port), Proto: k.Proto}
	out.Vip.W = toAddr(k.VIP)
	return out
}

// serviceAllow is SVC_ALLOW of bpf/lib/types.h.
const (
	serviceAllow = 1 << 0
	serviceFlows = 1 << 1
	serviceNAT   = 1 << 2
	serviceLeast = 1 << 3
	serviceWakes = 1 << 4
	serviceSleep = 1 << 5
)

func (s Service) kernel() lbService {
	out := lbService{Id: s.ID, Base: s.Base, Len: s.Len, Affinity: s.Affinity, Rate: s.Rate, Burst: s.Burst}
	if s.AllowOnly {
		out.Flags |= serviceAllow
	}
	if s.Flows {
		out.Flags |= serviceFlows
	}
	if s.NAT {
		out.Flags |= serviceNAT
	}
	if s.Least {
		out.Flags |= serviceLeast
	}
	if s.Wakes {
		out.Flags |= serviceWakes
	}
	if s.Sleep {
		out.Flags |= serviceSleep
	}
	for i, t := range s.Old {
		if t.Len > 0 {
			out.Old[i].Base, out.Old[i].Len = t.Base, t.Len
			out.Olds++
		}
	}
	return out
}

func serviceOf(s lbService) Service {
	out := Service{
		ID: s.Id, Base: s.Base, Len: s.Len, AllowOnly: s.Flags&serviceAllow != 0, Flows: s.Flags&serviceFlows != 0,
		NAT: s.Flags&serviceNAT != 0, Least: s.Flags&serviceLeast != 0, Wakes: s.Flags&serviceWakes != 0, Sleep: s.Flags&serviceSleep != 0,
		Affinity: s.Affinity, Rate: s.Rate, Burst: s.Burst,
	}
	for i := range min(s.Olds, OldTables) {
		out.Old[i] = Table{Base: s.Old[i].Base, Len: s.Old[i].Len}
	}
	return out
}

// mappedBits is how much longer an IPv4 prefix is as a mapped IPv6 one.
const mappedBits = 96

func (a Allow) kernel() lbAllowKey {
	bits := a.Source.Bits()
	if a.Source.Addr().Is4() {
		bits += mappedBits
	}
	out := lbAllowKey{Prefixlen: uint32(32 + bits), Service: a.Service}
	out.Addr.W = toAddr(a.Source.Masked().Addr())
	return out
}

func allowOf(k lbAllowKey) Allow {
	addr, bits := fromAddr(k.Addr.W), int(k.Prefixlen)-32
	switch {
	case !addr.IsValid():
		addr = netip.IPv6Unspecified() // ::/0
	case addr.Is4():
		bits -= mappedBits
	}
	return Allow{Service: k.Service, Source: netip.PrefixFrom(addr, bits)}
}

func serviceKeyOf(k lbServiceKey) ServiceKey {
	return ServiceKey{VIP: fromAddr(k.Vip.W), Port: swap16(k.Port), Proto: k.Proto}
}

func (b Backend) kernel() lbBackend {
	out := lbBackend{
		Port: swap16(b.Port), Proto: b.Proto, Flags: b.Flags, Ifindex: b.IfIndex,
		Dmac: b.DMAC, Smac: b.SMAC, Service: b.Service, Weight: b.Weight, Release: b.Release,
	}
	out.Addr.W = toAddr(b.Addr)
	return out
}

func backendOf(b lbBackend) Backend {
	return Backend{
		Addr: fromAddr(b.Addr.W), Port: swap16(b.Port), Proto: b.Proto, Flags: b.Flags, IfIndex: b.Ifindex,
		DMAC: b.Dmac, SMAC: b.Smac, Service: b.Service, Weight: b.Weight, Release: b.Release,
	}
}

func (k FlowKey) kernel() lbFlowKey {
	out := lbFlowKey{Sport: swap16(k.Src.Port()), Dport: swap16(k.Dst.Port()), Proto: k.Proto}
	out.Src.W, out.Dst.W = toAddr(k.Src.Addr()), toAddr(k.Dst.Addr())
	return out
}

func flowKeyOf(k *lbFlowKey) FlowKey {
	return FlowKey{
		Src:   netip.AddrPortFrom(fromAddr(k.Src.W), swap16(k.Sport)),
		Dst:   netip.AddrPortFrom(fromAddr(k.Dst.W), swap16(k.Dport)),
		Proto: k.Proto,
	}
}

func flowOf(f *lbFlow) Flow {
	return Flow{
		Src:     netip.AddrPortFrom(fromAddr(f.Src.W), swap16(f.Sport)),
		Dst:     netip.AddrPortFrom(fromAddr(f.Dst.W), swap16(f.Dport)),
		Backend: f.Backend, Service: f.Service, IfIndex: f.Ifindex, Flags: f.Flags, State: f.State,
		Source: f.Source, Hash: f.Hash, ISN: f.Isn, Seen: f.Seen,
	}
}

func (f Flow) kernel() lbFlow {
	out := lbFlow{
		Sport: swap16(f.Src.Port()), Dport: swap16(f.Dst.Port()), Backend: f.Backend, Service: f.Service,
		Ifindex: f.IfIndex, Flags: f.Flags, State: f.State, Source: f.Source, Hash: f.Hash, Isn: f.ISN, Seen: f.Seen,
	}
	out.Src.W, out.Dst.W = toAddr(f.Src.Addr()), toAddr(f.Dst.Addr())
	return out
}
