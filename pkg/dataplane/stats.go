// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// PacketCount is one cell of fairlead_packets_total. Slot is the interface's
// (see attach.Interface); slot 0 stands for interfaces without one.
type PacketCount struct {
	Slot    uint32
	Verdict string // "forward" | "pass" | "drop" | "answer"
	Reason  string
	Packets uint64
}

// ServiceCount is what the data plane counted for one service port since the
// maps were made. Sums over all CPUs and families.
type ServiceCount struct {
	Service     model.ServiceName
	Port        model.Port
	Connections uint64
	PacketsIn   uint64 // from clients
	BytesIn     uint64
	PacketsOut  uint64 // from replicas
	BytesOut    uint64
	Active      uint64 // established flows at the last sweep
}

// Stats is a reading of all counters.
type Stats struct {
	Packets   []PacketCount
	Services  []ServiceCount
	Flows     uint64 // entries at the last sweep
	FlowLimit uint64
	// Source ports of mode full-nat at the last sweep.
	SourcePorts     uint64
	SourcePortsUsed uint64
	Evictions       uint64 // flows whose entry the kernel's LRU had taken when their next packet came
}

// Flow is one tracked connection.
type Flow struct {
	Service  model.ServiceName `json:"service"`
	Protocol model.Protocol    `json:"protocol"`
	Client   netip.AddrPort    `json:"client"`
	VIP      netip.AddrPort    `json:"vip"`
	Backend  netip.AddrPort    `json:"backend"`
	Source   netip.AddrPort    `json:"source,omitzero"` // what the backend sees, where that is not the client
	State    string            `json:"state"`           // "new" | "established" | "closing"
	Idle     time.Duration     `json:"idle"`
}

// FlowFilter narrows a listing; zero fields match everything.
type FlowFilter struct {
	Service model.ServiceName
	Client  netip.Addr
	Backend netip.Addr
	Limit   int // 0: no limit
}
