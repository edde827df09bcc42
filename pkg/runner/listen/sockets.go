// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// socket is one line of /proc/PID/net/{tcp,udp}{,6}, which tell of the
// process's whole network namespace (proc_pid_net(5)).
type socket struct {
	local netip.AddrPort
	state uint8
}

// States of net/tcp_states.h. An unconnected UDP socket is in tcpClose.
const (
	tcpEstablished = 1
	tcpSynRecv     = 3
	tcpCloseWait   = 8
	tcpListen      = 10
	tcpNewSynRecv  = 12
)

// open tells whether somebody may wait for something on the socket.
func (s socket) open() bool {
	switch s.state {
	case tcpEstablished, tcpSynRecv, tcpCloseWait, tcpNewSynRecv:
		return true
	}
	return false
}

// sockets reads the tables of a protocol, "tcp" or "udp", for both families.
func sockets(pid int, proto string) ([]socket, error) {
	var all []socket
	for _, table := range []string{proto, proto + "6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6, or no process
		}
		if err != nil {
			return nil, err
		}
		all = append(all, parseSockets(string(b))...)
	}
	return all, nil
}

func parseSockets(table string) []socket {
	var all []socket
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasSuffix(f[0], ":") {
			continue
		}
		local, ok := parseLocal(f[1])
		state, err := strconv.ParseUint(f[3], 16, 8)
		if ok && err == nil {
			all = append(all, socket{local: local, state: uint8(state)})
		}
	}
	return all
}

// parseLocal reads ADDRESS:PORT; the address is 32-bit words in the machine's
// byte order.
func parseLocal(s string) (netip.AddrPort, bool) {
	addr, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}
