// SPDX-License-Identifier: Apache-2.0

// Package listen tells of a replica's sockets: whether it is ready, what it
// listens on instead, and whether it is in use. It looks into the network
// namespace of a process of this machine, and starts and stops nothing.
package listen

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Port is one container port.
type Port struct {
	Number uint16
	UDP    bool
}

// String is "80" or "53/udp".
func (p Port) String() string {
	if p.UDP {
		return fmt.Sprintf("%d/udp", p.Number)
	}
	return strconv.Itoa(int(p.Number))
}

// PortsOf lists the container ports of a service in the order of the config,
// each once.
func PortsOf(all []model.Port) []Port {
	var ports []Port
	for _, p := range all {
		if q := (Port{p.Container, p.Protocol == model.UDP}); !slices.Contains(ports, q) {
			ports = append(ports, q)
		}
	}
	return ports
}

// Split divides ports by protocol.
func Split(ports []Port) (tcp, udp []uint16) {
	for _, p := range ports {
		if p.UDP {
			udp = append(udp, p.Number)
		} else {
			tcp = append(tcp, p.Number)
		}
	}
	return tcp, udp
}

// Replica is what is looked at: a process whose network namespace is the
// replica's.
type Replica struct {
	PID   int          // in the agent's PID namespace; 0: it cannot be seen from here
	Addrs []netip.Addr // where the host reaches it
	Ports []Port
	// Any: nobody wrote the only port of Ports, which is TCP; another one will do.
	Any bool
}

// Connections counts the TCP connections that are open to the replica's ports,
// handshakes under way and half-closed ones included, those of the replica with
// itself not.
func (r Replica) Connections() (int, error) {
	all, err := sockets(r.PID, "tcp")
	if err != nil {
		return 0, err
	}
	tcp, _ := Split(r.Ports)
	n := 0
	for _, s := range all {
		if s.open() && slices.Contains(tcp, s.local.Port()) && !s.local.Addr().IsLoopback() {
			n++
		}
	}
	return n, nil
}

// busy tells whether there are connections to the replica's ports, its own
// included.
func (r Replica) busy() bool {
	all, err := sockets(r.PID, "tcp")
	tcp, _ := Split(r.Ports)
	return err == nil && slices.ContainsFunc(all, func(s socket) bool {
		return s.open() && slices.Contains(tcp, s.local.Port())
	})
}
