// SPDX-License-Identifier: Apache-2.0

// Package listen tells of a replica's sockets: whether it is ready, what it
// listens on instead, and whether it is in use. It looks into the network
// namespace of a process of this machine, and starts and stops nothing.
package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

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

// Sockets counts the TCP sockets of the replica's network namespace, listeners
// and those of the replica's own connections included, handshakes not. Unlike
// Connections it takes no time: the kernel keeps count (/proc/net/sockstat).
func (r Replica) Sockets() (n int, err error) {
	for _, file := range []string{"sockstat", "sockstat6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", r.PID, file))
		if errors.Is(err, fs.ErrNotExist) && file == "sockstat6" {
			continue // no IPv6
		}
		if err != nil {
			return 0, err
		}
		n += parseInUse(string(b))
	}
	return n, nil
}

// parseInUse finds "TCP: inuse N" and "TCP6: inuse N".
func parseInUse(text string) (total int) {
	for line := range strings.Lines(text) {
		var n int
		f := strings.Fields(line)
		if len(f) > 2 && (f[0] == "TCP:" || f[0] == "TCP6:") && f[1] == "inuse" {
			n, _ = strconv.Atoi(f[2])
		}
		total += n
	}
	return total
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
