// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestPortReuse: one client port is used again at once, after the client has
// reset its connection, and after it has forgotten it without a word. The SYN
// on a tuple that is still known must lead to a connection every time.
func TestPortReuse(t *testing.T) {
	lab.Beside(t, wires, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Balance(t, lab.Config{Services: []lab.Service{stream(l, 13)}})
		families(t, func(t *testing.T, f lab.Family) {
			again := func(port, count int, end func(*lab.Conn)) {
				for i := range count {
					local := netip.AddrPortFrom(lab.ClientAddr(f), uint16(port))
					c, err := openWithin(l.Client, local, vip(f, 13, 70), 10*time.Second)
					if err != nil {
						t.Fatalf("connection %d from port %d: %v", i, port, err)
					}
					must(t, c.Ping("once more", 3*time.Second))
					end(c)
				}
			}
			again(22000, 40, func(c *lab.Conn) { _ = c.Conn.(*net.TCPConn).SetLinger(0); c.Close() })
			again(22001, 3, func(c *lab.Conn) { forget(t, c) })
			if a == nil {
				return
			}
			// The replica that had the port's last connection leaves.
			local := netip.AddrPortFrom(lab.ClientAddr(f), 22002)
			c, err := l.Client.Open(local, vip(f, 13, 70))
			must(t, err)
			gone := c.Replica
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
			c.Close()
			for _, r := range l.Replicas {
				if r.Name == gone {
					a.CLI(t, "drain", r.Addr4.String())
					a.CLI(t, "drain", r.Addr6.String())
					defer a.CLI(t, "drain", r.Addr4.String(), "--undo")
					defer a.CLI(t, "drain", r.Addr6.String(), "--undo")
				}
			}
			lab.Poll(t, 5*time.Second, func() error {
				c, err := l.Client.Open(local, vip(f, 13, 70))
				must(t, err)
				_ = c.Conn.(*net.TCPConn).SetLinger(0)
				c.Close()
				if c.Replica == gone {
					return fmt.Errorf("a connection reached %s, which is drained", gone)
				}
				return nil
			})
		})
	})
}

// openWithin is Open with time for a handshake that begins with a challenge
// ACK (RFC 9293, 3.10.7.4): the SYN is sent again after a second.
func openWithin(n *lab.Netns, local, remote netip.AddrPort, timeout time.Duration) (c *lab.Conn, err error) {
	for deadline := time.Now().Add(lab.Patience(timeout)); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err = n.Open(local, remote); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// forget closes the client's socket without a packet, as a crash would
// (TCP_REPAIR).
func forget(t *testing.T, c *lab.Conn) {
	t.Helper()
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	must(t, err)
	var opt error
	must(t, raw.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) }))
	must(t, opt)
	c.Close()
}

// TestIdleFlowsSurvive: connections that say nothing while the table changes
// several times and sweeps go over it are where they were.
func TestIdleFlowsSurvive(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		svc := func(replicas ...*lab.Replica) lab.Config {
			s, d := stream(l, 13, replicas...), service(l, 11, "shop/dgram", "71", fmt.Sprint(lab.UDPPort), "udp")
			s.Drain, d.Drain = time.Hour, time.Hour
			d.Backends = s.Backends
			return lab.Config{Services: []lab.Service{s, d}}
		}
		r := l.Replicas
		a := l.Start(t, svc(r[:]...))
		conns := open(t, l, 30, vip(lab.V4, 13, 70), vip(lab.V6, 13, 70))
		socks := map[net.Conn]string{}
		for i := range 20 {
			c, err := l.Client.Dial("udp", netip.AddrPort{}, vip(lab.Families[i%2], 11, 71), time.Second)
			must(t, err)
			defer c.Close()
			got, err := lab.AskUDP(c, "first", 3*time.Second)
			must(t, err)
			socks[c] = got.Replica
		}
		for _, some := range [][]*lab.Replica{{r[0]}, {r[1]}, {r[2], r[0]}, {r[1], r[2]}, {r[0]}} {
			a.Reload(t, svc(some...))
		}
		swept(t, l, len(conns))
		a.Reload(t, svc(r[2]))
		for _, c := range conns {
			was := c.Replica
			if err := c.Ping("still there?", 3*time.Second); err != nil || c.Replica != was {
				t.Errorf("connection to %s after its silence: %v", was, err)
			}
		}
		for c, was := range socks {
			got, err := lab.AskUDP(c, "later", 3*time.Second)
			if err != nil || got.Replica != was {
				t.Errorf("flow to %s after its silence: %+v, %v", was, got, err)
			}
		}
	})
}

// swept waits for a sweep that saw so many connections.
func swept(t *testing.T, l *lab.Lab, connections int) {
	t.Helper()
	want := fmt.Sprintf("fairlead_service_active_connections{port=\"70\",service=\"shop/stream13\"} %d\n", connections)
	lab.Poll(t, 30*time.Second, func() error {
		text := l.Node.Run(t, "curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://127.0.0.1:9320/metrics")
		if !strings.Contains(text, want) {
			return fmt.Errorf("metrics lack %q", want)
		}
		return nil
	})
}
