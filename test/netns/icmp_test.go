// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

const errorPort = 7005

// listener is a replica's UDP socket that answers with its name and keeps ICMP
// errors about its answers.
type listener struct {
	*net.UDPConn
	replica *lab.Replica
}

func listenErrors(t *testing.T, r *lab.Replica, f lab.Family) listener {
	t.Helper()
	var c *net.UDPConn
	must(t, r.NS.Do(func() (err error) {
		c, err = net.ListenUDP(fmt.Sprintf("udp%d", f), net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.Addr(f), errorPort)))
		return err
	}))
	must(t, lab.KeepErrors(c, f))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			_, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil { // others are ICMP errors, which NextError reads
				_, _ = c.WriteToUDPAddrPort([]byte(r.Name+" "+from.String()), from)
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return listener{c, r}
}

// icmpCase is one kind of error, and whether its 32 bits after the checksum
// mean something.
type icmpCase struct {
	name       string
	typ, code  uint8
	mtu        uint32
	shortQuote bool
}

func icmpCases(f lab.Family) []icmpCase {
	if f == lab.V6 {
		return []icmpCase{
			{"no route", 1, 0, 0, false},
			{"port unreachable", 1, 4, 0, false},
			{"time exceeded", 3, 0, 0, false},
			{"time exceeded, 8 bytes", 3, 0, 0, true},
			{"too big", 2, 0, 1400, false},
			{"too big, 8 bytes", 2, 0, 1300, true},
		}
	}
	return []icmpCase{
		{"host unreachable", 3, 1, 0, false},
		{"port unreachable, 8 bytes", 3, 3, 0, true},
		{"time exceeded", 11, 0, 0, false},
		{"time exceeded, 8 bytes", 11, 0, 0, true},
		{"frag needed", 3, 4, 1400, false},
		{"frag needed, 8 bytes", 3, 4, 1300, true},
	}
}

// quote is what an error holds of the packet it is about.
func (c icmpCase) quote(src, dst netip.AddrPort) []byte {
	whole := lab.UDPPacket(src, dst, []byte(strings.Repeat("q", 64)))
	if !c.shortQuote {
		return whole
	}
	return whole[:len(whole)-64]
}

// TestICMPErrorsReachBothEnds: errors about a flow's packets find the socket
// that sent them, which they can only with the quote translated: those towards
// the virtual IP at the flow's own replica, those of a replica at the client,
// as if the virtual IP had sent them.
func TestICMPErrorsReachBothEnds(t *testing.T) {
	lab.Beside(t, wires, func(t *testing.T, l *lab.Lab) {
		l.Balance(t, lab.Config{Services: []lab.Service{service(l, 42, "shop/errors", "75", fmt.Sprint(errorPort), "udp")}})
		families(t, func(t *testing.T, f lab.Family) {
			var ends []listener
			for _, r := range l.Replicas {
				ends = append(ends, listenErrors(t, r, f))
			}
			to := vip(f, 42, 75)
			client, err := l.Client.Dial("udp", netip.AddrPort{}, to, time.Second)
			must(t, err)
			defer client.Close()
			must(t, lab.KeepErrors(client.(*net.UDPConn), f))
			a, err := lab.AskUDP(client, "who are you?", 2*time.Second)
			must(t, err)
			end := ends[slices.IndexFunc(ends, func(e listener) bool { return e.replica.Name == a.Replica })]
			from := client.LocalAddr().(*net.UDPAddr).AddrPort()
			replica := netip.AddrPortFrom(end.replica.Addr(f), errorPort)
			for _, c := range icmpCases(f) {
				must(t, l.Client.SendICMP(to.Addr(), c.typ, c.code, c.mtu, c.quote(to, from)))
				wantError(t, c.name+" towards the replica", end, lab.ICMPError{Type: c.typ, Code: c.code, Info: c.mtu, Offender: lab.ClientAddr(f), About: from})
				must(t, end.replica.NS.SendICMP(from.Addr(), c.typ, c.code, c.mtu, c.quote(from, replica)))
				wantError(t, c.name+" towards the client", client.(*net.UDPConn), lab.ICMPError{Type: c.typ, Code: c.code, Info: c.mtu, Offender: to.Addr(), About: to})
			}
		})
	})
}

func wantError(t *testing.T, what string, c syscall.Conn, want lab.ICMPError) {
	t.Helper()
	got, err := lab.NextError(c, 3*time.Second)
	if err != nil || got != want {
		t.Errorf("%s: %+v, %v, wanted %+v", what, got, err, want)
	}
}

// TestTraceroute: the real tool finds the virtual IP at the end of the path,
// by every method, and names the hops before and behind the node.
func TestTraceroute(t *testing.T) {
	lab.Beside(t, wires, func(t *testing.T, l *lab.Lab) {
		client := l.FarClient(t, 1500)
		r, _ := l.FarReplica(t, 1500)
		r.ServeTCP(t, lab.TCPPort)
		l.Node.EveryError(t)
		l.Balance(t, lab.Config{Services: []lab.Service{stream(l, 13, r)}})
		families(t, func(t *testing.T, f lab.Family) {
			at := func(a4, a6 string) string {
				if f == lab.V6 {
					return a6
				}
				return a4
			}
			to := vip(f, 13, 70).Addr().String()
			before := []string{at("10.2.9.1", "fd00:2:9::1"), at("10.3.9.1", "fd00:3:9::1")}
			for _, args := range [][]string{{}, {"-I"}, {"-T", "-p", "70"}} {
				hops := traceroute(t, client.NS, to, args...)
				if len(hops) < 3 || !slices.Equal(hops[:2], before) || hops[len(hops)-1] != to {
					t.Errorf("traceroute %s: hops %q, wanted %q, …, %s", strings.Join(args, " "), hops, before, to)
				}
				if len(args) < 2 || !l.Mode.Fairlead() {
					continue // nftables shows all hops behind it as the virtual IP
				}
				// To a served port the path goes on to the replica.
				want := append(slices.Clone(before), to, l.Replicas[0].Addr(f).String(), at("10.3.1.2", "fd00:3:1::2"), to)
				if !slices.Equal(hops, want) {
					t.Errorf("traceroute %s: hops %q, wanted %q", strings.Join(args, " "), hops, want)
				}
			}
			out := client.NS.Run(t, "ping", "-n", "-c", "2", "-i", "0.05", "-W", "2", to)
			if !strings.Contains(out, " 0% packet loss") {
				t.Errorf("ping: %s", out)
			}
			testEndOfLife(t, l.Client, vip(f, 13, 70))
		})
	})
}

var hopLine = regexp.MustCompile(`(?m)^ *[0-9]+  (\S+)`)

// traceroute lists who answered; "*" is nobody.
func traceroute(t *testing.T, from *lab.Netns, to string, args ...string) []string {
	t.Helper()
	args = append([]string{"-n", "-q", "1", "-w", "3", "-m", "10"}, args...)
	out := from.Run(t, "traceroute", append(args, to)...)
	var hops []string
	for _, m := range hopLine.FindAllStringSubmatch(out, -1) {
		hops = append(hops, m[1])
	}
	return hops
}

// testEndOfLife: the kernel's own TCP packet, its checksum left to the
// hardware, whose time to live ends at the node, is answered at once.
func testEndOfLife(t *testing.T, from *lab.Netns, to netip.AddrPort) {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var opt error
		err := c.Control(func(fd uintptr) {
			if to.Addr().Is6() {
				opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 1)
				return
			}
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, 1)
		})
		return errors.Join(err, opt)
	}}
	err := from.Do(func() error {
		c, err := d.Dial("tcp", to.String())
		if err == nil {
			c.Close()
		}
		return err
	})
	if !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("connect with a time to live of 1: %v, wanted %v", err, syscall.EHOSTUNREACH)
	}
}
