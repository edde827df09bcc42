// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/feature"
	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// narrow is the MTU of the link that the path MTU must be found for: the least
// that IPv6 allows, so that it holds for both families.
const narrow = 1280

// wires are the modes that wire cases run in, beside nftables. The programs of
// the others are the same.
var wires = []string{"tcx", "xdp-native"}

// transfer is one connection that carried data both ways.
type transfer struct {
	upMTU, downMTU uint32 // path MTU at the sender's end, afterwards
}

// bulkPair serves connections that carry size bytes there and back again, and
// returns what opens one and checks every byte.
func bulkPair(t *testing.T, r *lab.Replica, from *lab.Netns, size int64) func(to netip.AddrPort) (transfer, error) {
	t.Helper()
	type end struct {
		sums chan uint32
		mtu  chan uint32
	}
	var mu sync.Mutex
	ends := map[string]end{}
	of := func(client string) end {
		mu.Lock()
		defer mu.Unlock()
		if _, ok := ends[client]; !ok {
			ends[client] = end{make(chan uint32, 2), make(chan uint32, 1)}
		}
		return ends[client]
	}
	r.HandleTCP(t, bulkPort, func(c net.Conn) {
		e := of(c.RemoteAddr().String())
		bulkServer(c, size, e.sums)
		e.mtu <- pathMTU(c)
	})
	return func(to netip.AddrPort) (tr transfer, err error) {
		c, err := from.Dial("tcp", netip.AddrPort{}, to, 5*time.Second)
		if err != nil {
			return tr, err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(lab.Patience(40 * time.Second)))
		sent, err := sendRandom(c, size)
		if err != nil {
			return tr, fmt.Errorf("send: %w", err)
		}
		tr.upMTU = pathMTU(c)
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return tr, err
		}
		h := crc32.New(castagnoli)
		if _, err := io.Copy(h, onlyReader{c}); err != nil {
			return tr, fmt.Errorf("receive: %w", err)
		}
		e := of(c.LocalAddr().String())
		if there, back := <-e.sums, <-e.sums; there != sent || back != h.Sum32() {
			return tr, fmt.Errorf("checksums %08x and %08x, wanted %08x and %08x", there, h.Sum32(), sent, back)
		}
		tr.downMTU = <-e.mtu
		return tr, nil
	}
}

// pathMTU is what the connection's sender knows of the path; 0: nothing.
func pathMTU(c net.Conn) uint32 {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0
	}
	var mtu uint32
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
			mtu = info.Pmtu
		}
	})
	return mtu
}

// narrowPath is a path with one narrow link, from a client to the one replica
// of a service.
type narrowPath struct {
	*lab.Lab
	client  *lab.Netns
	replica *lab.Replica
	far     *lab.Far
}

// beyondClient has the narrow link between the node and the client.
func beyondClient(t *testing.T, l *lab.Lab, mtu int) narrowPath {
	far := l.FarClient(t, mtu)
	return narrowPath{l, far.NS, l.Replicas[0], far}
}

// beyondReplica has it between the node and the replica.
func beyondReplica(t *testing.T, l *lab.Lab, mtu int) narrowPath {
	r, far := l.FarReplica(t, mtu)
	return narrowPath{l, l.Client, r, far}
}

func (p narrowPath) services() lab.Config {
	one := func(k int, name, port, container, protocol string) lab.Service {
		s := service(p.Lab, k, name, port, container, protocol)
		s.Backends = lab.Backends(p.replica)
		return s
	}
	return lab.Config{Services: []lab.Service{
		one(40, "shop/bulk", "72", fmt.Sprint(bulkPort), "tcp"),
		one(41, "shop/dgram", "71", fmt.Sprint(lab.UDPPort), "udp"),
	}}
}

// eachPath runs f with the narrow link at either side.
func eachPath(t *testing.T, modes []string, mtu int, f func(t *testing.T, p narrowPath)) {
	t.Helper()
	lab.Beside(t, modes, func(t *testing.T, l *lab.Lab) {
		t.Run("towards the client", func(t *testing.T) { f(t, beyondClient(t, l, mtu)) })
		t.Run("towards the replica", func(t *testing.T) { f(t, beyondReplica(t, lab.New(t, l.Mode), mtu)) })
	})
}

// TestPathMTUOfAHop: whoever sends through the narrow link from its far side
// learns of it from the hop there, through the balancer, and both directions
// carry data. TCP both ways; UDP from both ends.
func TestPathMTUOfAHop(t *testing.T) {
	eachPath(t, wires, narrow, func(t *testing.T, p narrowPath) {
		p.replica.ServeUDP(t, lab.UDPPort)
		run := bulkPair(t, p.replica, p.client, 4<<20)
		p.Balance(t, p.services())
		families(t, func(t *testing.T, f lab.Family) {
			tr, err := run(vip(f, 40, 72))
			must(t, err)
			if tr.upMTU != narrow || tr.downMTU != narrow {
				t.Errorf("path MTU is %d at the client and %d at the replica, wanted %d", tr.upMTU, tr.downMTU, narrow)
			}
			testUDPPathMTU(t, p.client, vip(f, 41, 71), syscall.EMSGSIZE)
		})
	})
}

// testUDPPathMTU: a datagram that may not be fragmented and does not fit is the
// wanted error at its sender's socket (nil: it arrives); one that may be, and
// the answer to it, arrive once both ends know the path; so does one that is
// sent in fragments.
func testUDPPathMTU(t *testing.T, from *lab.Netns, to netip.AddrPort, want error) {
	t.Helper()
	forgetPaths(t, from)
	c, err := from.Dial("udp", netip.AddrPort{}, to, time.Second)
	must(t, err)
	defer c.Close()
	must(t, wholeOnly(c))
	big := strings.Repeat("b", 1400)
	lab.Poll(t, 10*time.Second, func() error {
		if _, err := lab.AskUDP(c, big, 200*time.Millisecond); !errors.Is(err, want) {
			return fmt.Errorf("datagram of 1400 bytes through a link of %d: %v, wanted %v", narrow, err, want)
		}
		return nil
	})
	other, err := from.Dial("udp", netip.AddrPort{}, to, time.Second)
	must(t, err)
	defer other.Close()
	for _, payload := range []string{big, strings.Repeat("huge", 1000)} {
		lab.Poll(t, 10*time.Second, func() error {
			a, err := lab.AskUDP(other, payload, 200*time.Millisecond)
			if err == nil && a.Rest != payload && a.Rest != big {
				t.Fatalf("%d bytes came back of %d", len(a.Rest), len(payload))
			}
			if err == nil && a.Rest != payload {
				return lab.ErrNotYet // a late one
			}
			return err
		})
	}
}

// wholeOnly forbids fragments on a UDP socket.
func wholeOnly(c net.Conn) error {
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var opt error
	err = raw.Control(func(fd uintptr) {
		opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		if c.RemoteAddr().(*net.UDPAddr).IP.To4() == nil {
			opt = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		}
	})
	return errors.Join(err, opt)
}

// forgetPaths drops what a namespace has learned of paths.
func forgetPaths(t *testing.T, n *lab.Netns) {
	t.Helper()
	n.Run(t, "ip", "route", "flush", "cache")
	n.Run(t, "ip", "-6", "route", "flush", "cache")
}

// TestPathMTUOfASilentHop: the hop says nothing, as behind a careless
// firewall, so the ends must find out by themselves (RFC 4821), which the
// balancer must not prevent.
func TestPathMTUOfASilentHop(t *testing.T) {
	eachPath(t, []string{"tcx"}, narrow, func(t *testing.T, p narrowPath) {
		p.far.Mute(t)
		for _, n := range []*lab.Netns{p.client, p.replica.NS} {
			n.Sysctl(t, "net/ipv4/tcp_mtu_probing", "1")
			n.Sysctl(t, "net/ipv4/tcp_retries1", "1") // begin to probe after a second, not after ten
		}
		run := bulkPair(t, p.replica, p.client, 1<<20)
		p.Balance(t, p.services())
		var wg sync.WaitGroup
		for _, f := range lab.Families { // at once: what takes time is waiting
			wg.Go(func() {
				if _, err := run(vip(f, 40, 72)); err != nil {
					t.Errorf("%v: %v", f, err)
				}
			})
		}
		wg.Wait()
	})
}

// TestPathMTUOfTheNode: the narrow link is the node's own, so the balancer
// itself has to say that a packet is too big. It learns that of bpf_check_mtu, or
// by what the agent says of the link; kernels before 5.12, which have no such
// helper, look at the size of what TC hands to a namespace, too, and drop it.
func TestPathMTUOfTheNode(t *testing.T) {
	lab.Beside(t, wires, func(t *testing.T, l *lab.Lab) {
		for _, side := range []string{"client", "replica"} {
			t.Run("towards the "+side, func(t *testing.T) {
				m := l
				if side == "replica" {
					m = lab.New(t, l.Mode)
				}
				testNodePathMTU(t, m, side)
			})
		}
	})
}

// narrowNode is a path whose narrow link is one of the node's.
func narrowNode(t *testing.T, l *lab.Lab, side string) (p narrowPath) {
	t.Helper()
	if side == "client" {
		p = beyondClient(t, l, 1500)
		l.Node.Run(t, "ip", "link", "set", "up0", "mtu", fmt.Sprint(narrow))
		l.Client.Run(t, "ip", "link", "set", "eth0", "mtu", fmt.Sprint(narrow))
		return p
	}
	p = beyondReplica(t, l, 1500)
	l.Node.Run(t, "ip", "link", "set", "rep1", "mtu", fmt.Sprint(narrow))
	l.Replicas[0].NS.Run(t, "ip", "link", "set", "eth0", "mtu", fmt.Sprint(narrow))
	return p
}

func testNodePathMTU(t *testing.T, l *lab.Lab, side string) {
	p := narrowNode(t, l, side)
	p.replica.ServeUDP(t, lab.UDPPort)
	run := bulkPair(t, p.replica, p.client, 4<<20)
	l.Node.EveryError(t)
	// From TC into a namespace of the machine there is no wire that is too narrow.
	peer := l.Mode.Fairlead() && !l.Mode.XDP() && feature.Has(t, feature.CheckMTU)
	p.Balance(t, p.services())
	families(t, func(t *testing.T, f lab.Family) {
		tr, err := run(vip(f, 40, 72))
		must(t, err)
		if near, far := tr.upMTU, tr.downMTU; side == "client" && far != narrow || side == "replica" && near != narrow && !peer {
			t.Errorf("path MTU is %d at the client and %d at the replica, wanted %d beyond the node", near, far, narrow)
		}
		want := error(syscall.EMSGSIZE)
		if side == "replica" && peer {
			want = nil
		}
		testUDPPathMTU(t, p.client, vip(f, 41, 71), want)
	})
}
