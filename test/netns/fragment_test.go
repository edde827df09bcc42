// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// hosts gives the client more addresses, as if it were several hosts, and
// returns those of a family.
func hosts(t *testing.T, l *lab.Lab, count int) func(f lab.Family, i int) netip.Addr {
	t.Helper()
	addr := func(f lab.Family, i int) netip.Addr {
		if f == lab.V6 {
			return netip.MustParseAddr(fmt.Sprintf("fd00:c::%x", 0x100+i))
		}
		return netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + i)})
	}
	for i := range count {
		l.Client.Run(t, "ip", "addr", "add", addr(lab.V4, i).String()+"/24", "dev", "eth0")
		l.Client.Run(t, "ip", "addr", "add", addr(lab.V6, i).String()+"/64", "dev", "eth0", "nodad")
	}
	return addr
}

// TestFragments: datagrams of several fragments, from several hosts at once,
// and their echoes, which are fragments too, arrive whole at their own ends;
// and so do large pings.
func TestFragments(t *testing.T) {
	lab.Beside(t, append(wires, "xdp-generic"), func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		host := hosts(t, l, 6)
		a := l.Balance(t, lab.Config{Services: []lab.Service{service(l, 11, "shop/dgram", "71", fmt.Sprint(lab.UDPPort), "udp")}})
		families(t, func(t *testing.T, f lab.Family) {
			var wg sync.WaitGroup
			for i := range 6 {
				wg.Go(func() {
					if err := fragmentedEchoes(l.Client, netip.AddrPortFrom(host(f, i), 0), vip(f, 11, 71), i); err != nil {
						t.Errorf("host %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			out := l.Client.Run(t, "ping", "-c", "3", "-i", "0.05", "-W", "2", "-s", "5000", vip(f, 11, 0).Addr().String())
			if !strings.Contains(out, " 0% packet loss") {
				t.Errorf("ping in fragments: %s", out)
			}
		})
		if a != nil {
			if n := reasonCount(t, l, "fragment"); n != 0 {
				t.Errorf("%d fragments were dropped", n)
			}
		}
	})
}

// fragmentedEchoes asks with datagrams of 3 to 7 fragments; all of a socket's
// reach one replica.
func fragmentedEchoes(from *lab.Netns, local, to netip.AddrPort, seed int) error {
	c, err := from.Dial("udp", local, to, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	replica, sent := "", map[string]bool{}
	for k := range 20 {
		payload := strings.Repeat(fmt.Sprintf("host %d datagram %d;", seed, k), 200+10*k)
		sent[payload] = true
		a, err := echo(c, payload, sent)
		if err != nil {
			return fmt.Errorf("datagram %d of %d bytes: %w", k, len(payload), err)
		}
		if replica != "" && a.Replica != replica {
			return fmt.Errorf("datagrams reached %s and %s", replica, a.Replica)
		}
		replica = a.Replica
	}
	return nil
}

// echo asks until the payload comes back: a busy machine may lose a fragment,
// or answer late. Nothing may come back but what was sent, whole.
func echo(c net.Conn, payload string, sent map[string]bool) (a lab.Answer, err error) {
	buf := make([]byte, 65536)
	for range 5 {
		if _, err = c.Write([]byte(payload)); err != nil {
			return a, err
		}
		for deadline := time.Now().Add(time.Second); ; {
			_ = c.SetReadDeadline(deadline)
			var n int
			if n, err = c.Read(buf); err != nil {
				break
			}
			if a, err = lab.ParseAnswer(string(buf[:n])); err != nil {
				return a, err
			}
			switch {
			case a.Rest == payload:
				return a, nil
			case !sent[a.Rest]:
				return a, fmt.Errorf("%d bytes came back that were never sent", len(a.Rest))
			}
		}
	}
	return a, err
}

// reasonCount reads the packets that the node counted by a reason.
func reasonCount(t *testing.T, l *lab.Lab, reason string) (sum int) {
	t.Helper()
	text := l.Node.Run(t, "curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://127.0.0.1:9320/metrics")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "fairlead_packets_total{") && strings.Contains(line, `reason="`+reason+`"`) {
			n, err := strconv.ParseFloat(line[strings.LastIndex(line, " ")+1:len(line)-1], 64)
			must(t, err)
			sum += int(n)
		}
	}
	return sum
}

// cut makes two fragments of a UDP packet, after at bytes of its payload.
func cut(whole []byte, id uint32, at int) [2][]byte {
	if whole[0]>>4 == 6 {
		part := func(b []byte, frag uint16) []byte {
			p := slices.Clone(whole[:40])
			binary.BigEndian.PutUint16(p[4:], uint16(8+len(b)))
			p[6] = unix.IPPROTO_FRAGMENT
			p = binary.BigEndian.AppendUint16(append(p, unix.IPPROTO_UDP, 0), frag)
			return append(binary.BigEndian.AppendUint32(p, id), b...)
		}
		return [2][]byte{part(whole[40:40+at], 1), part(whole[40+at:], uint16(at))}
	}
	part := func(b []byte, frag uint16) []byte {
		p := slices.Clone(whole[:20])
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(b)))
		binary.BigEndian.PutUint16(p[4:], uint16(id))
		binary.BigEndian.PutUint16(p[6:], frag)
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^lab.Sum(p))
		return append(p, b...)
	}
	return [2][]byte{part(whole[20:20+at], 0x2000), part(whole[20+at:], uint16(at/8))}
}

// host is one of several clients that send packets made by hand.
type host struct {
	*net.UDPConn // gets the answers
	local        netip.AddrPort
	raw          int
}

func newHost(t *testing.T, l *lab.Lab, f lab.Family, addr netip.Addr) host {
	t.Helper()
	h := host{raw: -1}
	must(t, l.Client.Do(func() (err error) {
		if h.UDPConn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0))); err != nil {
			return err
		}
		family := unix.AF_INET
		if f == lab.V6 {
			family = unix.AF_INET6
		}
		h.raw, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}))
	h.local = h.LocalAddr().(*net.UDPAddr).AddrPort()
	t.Cleanup(func() {
		h.Close()
		unix.Close(h.raw)
	})
	return h
}

// send puts an IP packet on the wire as it is.
func (h host) send(t *testing.T, packet []byte) {
	t.Helper()
	var to unix.Sockaddr
	if packet[0]>>4 == 6 {
		to = &unix.SockaddrInet6{Addr: [16]byte(packet[24:40])}
	} else {
		to = &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
	}
	for {
		err := unix.Sendto(h.raw, packet, 0, to)
		if err == unix.EINTR {
			continue
		}
		must(t, err)
		return
	}
}

// answer waits for a replica's.
func (h host) answer(timeout time.Duration) (lab.Answer, error) {
	_ = h.SetReadDeadline(time.Now().Add(timeout))
	buf := make([]byte, 65536)
	n, _, err := h.ReadFromUDPAddrPort(buf)
	if err != nil {
		return lab.Answer{}, err
	}
	return lab.ParseAnswer(string(buf[:n]))
}

// TestFragmentsOfOneNumber: several hosts use the same identification, and
// their fragments come mixed: each datagram is made of its own.
func TestFragmentsOfOneNumber(t *testing.T) {
	lab.Beside(t, wires, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		addr := hosts(t, l, 5)
		l.Balance(t, lab.Config{Services: []lab.Service{service(l, 11, "shop/dgram", "71", fmt.Sprint(lab.UDPPort), "udp")}})
		families(t, func(t *testing.T, f lab.Family) {
			var all []host
			for i := range 5 {
				all = append(all, newHost(t, l, f, addr(f, i)))
			}
			lab.Poll(t, 10*time.Second, func() error {
				id := uint32(time.Now().UnixNano()>>10) & 0xffff
				payload := func(i int) string { return strings.Repeat(fmt.Sprintf("%d-%d ", id, i), 150) }
				var parts [][2][]byte
				for i, h := range all {
					parts = append(parts, cut(lab.UDPPacket(h.local, vip(f, 11, 71), []byte(payload(i))), id, 512))
				}
				for k := range 2 {
					for i, h := range all {
						h.send(t, parts[i][k])
					}
				}
				for i, h := range all {
					a, err := h.answer(time.Second)
					if err != nil {
						return fmt.Errorf("host %d: %w", i, err)
					}
					if !strings.HasSuffix(a.Rest, fmt.Sprintf("-%d ", i)) || len(a.Rest) < 600 {
						t.Fatalf("host %d got back %q", i, a.Rest)
					}
				}
				return nil
			})
		})
	})
}

// TestFragmentsOutOfOrder: the last fragment comes first. nftables puts the
// datagram together; fairlead drops what came too early and counts it. Never
// does a replica get a part of it that belongs elsewhere.
func TestFragmentsOutOfOrder(t *testing.T) {
	lab.Beside(t, wires, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Balance(t, lab.Config{Services: []lab.Service{service(l, 11, "shop/dgram", "71", fmt.Sprint(lab.UDPPort), "udp")}})
		families(t, func(t *testing.T, f lab.Family) {
			h := newHost(t, l, f, lab.ClientAddr(f))
			payload := strings.Repeat("backwards ", 100)
			parts := cut(lab.UDPPacket(h.local, vip(f, 11, 71), []byte(payload)), 4711, 512)
			if a == nil {
				h.send(t, parts[1])
				h.send(t, parts[0])
				if got, err := h.answer(3 * time.Second); err != nil || got.Rest != payload {
					t.Errorf("nftables: answer %+v, %v", got, err)
				}
				return
			}
			before := reasonCount(t, l, "fragment")
			h.send(t, parts[1])
			h.send(t, parts[0])
			lab.Poll(t, 5*time.Second, func() error {
				if n := reasonCount(t, l, "fragment") - before; n != 1 {
					return fmt.Errorf("%d fragments were counted as dropped, wanted 1", n)
				}
				return nil
			})
			// The early one sent again completes the datagram.
			h.send(t, parts[1])
			if got, err := h.answer(3 * time.Second); err != nil || got.Rest != payload {
				t.Errorf("once the first fragment was known: answer %+v, %v", got, err)
			}
		})
	})
}

// TestOthersFragments: what is no service's is not touched, in order or not.
func TestOthersFragments(t *testing.T) {
	lab.Beside(t, wires, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Balance(t, lab.Config{Services: []lab.Service{service(l, 11, "shop/dgram", "71", fmt.Sprint(lab.UDPPort), "udp")}})
		l.Forwarding(t, true)
		l.Client.Run(t, "ip", "route", "add", "10.1.0.0/16", "via", "198.51.100.1")
		l.Client.Run(t, "ip", "-6", "route", "add", "fd00:1::/32", "via", "fd00:c::1")
		families(t, func(t *testing.T, f lab.Family) {
			h := newHost(t, l, f, lab.ClientAddr(f))
			to := netip.AddrPortFrom(l.Replicas[1].Addr(f), lab.UDPPort)
			for i, order := range [][]int{{0, 1}, {1, 0}} {
				payload := strings.Repeat("somebody else's ", 100)
				parts := cut(lab.UDPPacket(h.local, to, []byte(payload)), 815+uint32(i), 512)
				for _, k := range order {
					h.send(t, parts[k])
				}
				got, err := h.answer(3 * time.Second)
				if err != nil || got.Rest != payload || got.Replica != l.Replicas[1].Name {
					t.Errorf("fragments in order %v: answer %+v, %v", order, got, err)
				}
			}
			must(t, fragmentedEchoes(l.Client, netip.AddrPort{}, to, 0))
		})
		if a != nil {
			if n := reasonCount(t, l, "fragment"); n != 0 {
				t.Errorf("%d fragments were dropped", n)
			}
		}
	})
}

// TestFragmentedByTheNode: what its sender lets be fragmented, and does not fit the
// node's own link, arrives whole at the first try, also what is a fragment already;
// nobody is told that it was too big.
func TestFragmentedByTheNode(t *testing.T) {
	lab.Beside(t, wires, func(t *testing.T, l *lab.Lab) {
		for _, side := range []string{"client", "replica"} {
			t.Run("towards the "+side, func(t *testing.T) {
				m := l
				if side == "replica" {
					m = lab.New(t, l.Mode)
				}
				p := narrowNode(t, m, side)
				if side == "replica" { // eight pieces each
					m.Client.Run(t, "ip", "link", "set", "eth0", "mtu", "9000")
					m.Node.Run(t, "ip", "link", "set", "up0", "mtu", "9000")
				}
				for _, n := range []*lab.Netns{p.client, p.replica.NS} {
					n.Sysctl(t, "net/ipv4/ip_no_pmtu_disc", "1")   // fragments are welcome
					n.Run(t, "ethtool", "-K", "eth0", "tx", "off") // as on a wire, checksums are whole
				}
				p.replica.ServeUDP(t, lab.UDPPort)
				a := p.Balance(t, p.services())
				for _, size := range []int{1253, 1400, 1472, 1473, 4000, 20_000} {
					c, err := p.client.Dial("udp", netip.AddrPort{}, vip(lab.V4, 41, 71), time.Second)
					must(t, err)
					payload := strings.Repeat("12345", size/5+1)[:size]
					got, err := lab.AskUDP(c, payload, lab.Patience(2*time.Second))
					_ = c.Close()
					if err != nil || got.Rest != payload {
						t.Errorf("%d bytes: %d came back, %v", size, len(got.Rest), err)
					}
				}
				if a != nil {
					if n := reasonCount(t, p.Lab, "too_big"); n != 0 {
						t.Errorf("%d packets were answered as too big", n)
					}
				}
			})
		}
	})
}

// TestUnsummedTooBig: a datagram whose checksum is left to the hardware, as a
// container's is, is not cut, which would leave that to each fragment: its sender is
// told what fits, sends fragments from then on, and nothing wrong arrives.
func TestUnsummedTooBig(t *testing.T) {
	lab.Beside(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		p := narrowNode(t, l, "client")
		for _, n := range []*lab.Netns{p.client, p.replica.NS} {
			n.Sysctl(t, "net/ipv4/ip_no_pmtu_disc", "1")
		}
		l.Node.Run(t, "ethtool", "-K", "up0", "tx", "off") // what leaves the node has a whole one
		p.replica.ServeUDP(t, lab.UDPPort)
		a := p.Balance(t, p.services())
		for _, size := range []int{1400, 4000} {
			payload := strings.Repeat("12345", size/5)
			c, err := p.client.Dial("udp", netip.AddrPort{}, vip(lab.V4, 41, 71), time.Second)
			must(t, err)
			lab.Poll(t, 10*time.Second, func() error {
				got, err := lab.AskUDP(c, payload, time.Second)
				if err == nil && got.Rest != payload {
					t.Fatalf("%d bytes: something else came back, of %d", size, len(got.Rest))
				}
				return err
			})
			_ = c.Close()
		}
		if a != nil {
			if n := reasonCount(t, p.Lab, "too_big"); n == 0 {
				t.Error("no packet was answered as too big")
			}
		}
	})
}
