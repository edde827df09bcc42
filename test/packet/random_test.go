// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// conn is one TCP connection as its client sees it.
type conn struct {
	src     string
	sport   uint16
	isn     uint32 // of the backend
	backend string // where its SYN went
}

// network drives connections through a plane and knows where each belongs.
type network struct {
	*plane
	r     *rand.Rand
	conns []*conn // established
	next  int
}

func (n *network) packet(c *conn, tcp *layers.TCP) string {
	f := frame{src: c.src, dst: vip4, sport: c.sport, dport: 90, tcp: tcp}
	verdict, out := n.send(hooks[0].prog(n.plane), f.bytes(n.T))
	if verdict != xdpTX {
		return fmt.Sprintf("nowhere (verdict %d)", verdict)
	}
	return netip.AddrFrom4([4]byte(out[30:34])).String()
}

// reply sends a packet of the connection's backend and tells what source the
// client sees.
func (n *network) reply(c *conn, tcp *layers.TCP) string {
	f := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: c.backend, dst: c.src, sport: 8090, dport: c.sport, tcp: tcp}
	if c.backend == c.src {
		f.dst = vip4 // hairpin
	}
	verdict, out := n.send(hooks[0].prog(n.plane), f.bytes(n.T))
	if verdict != xdpTX {
		return fmt.Sprintf("nowhere (verdict %d)", verdict)
	}
	src := netip.AddrPortFrom(netip.AddrFrom4([4]byte(out[26:30])), uint16(out[34])<<8|uint16(out[35]))
	return src.String()
}

// open makes a connection; established or left in the middle of its handshake.
func (n *network) open(src string, sport uint16, finish bool) {
	c := &conn{src: src, sport: sport, isn: n.r.Uint32()}
	c.backend = n.packet(c, &layers.TCP{SYN: true, Seq: 1000, Window: 1000})
	if n.r.IntN(4) == 0 { // the SYN is sent again
		if again := n.packet(c, &layers.TCP{SYN: true, Seq: 1000, Window: 1000}); again != c.backend {
			n.Errorf("%s:%d: SYN to %s, sent again to %s", src, sport, c.backend, again)
		}
	}
	if !finish {
		return
	}
	if got := n.reply(c, &layers.TCP{SYN: true, ACK: true, Seq: c.isn, Ack: 1001, Window: 1000}); got != vip4+":90" {
		n.Errorf("%s:%d: SYN-ACK comes from %s", src, sport, got)
	}
	n.conns = append(n.conns, c)
	n.check(c, "ACK")
}

// check sends a packet of an established connection both ways.
func (n *network) check(c *conn, what string) {
	n.Helper()
	if got := n.packet(c, &layers.TCP{ACK: true, Seq: 1001, Ack: c.isn + 1, Window: 1000}); got != c.backend {
		n.Errorf("%s of %s:%d went to %s, the connection is with %s", what, c.src, c.sport, got, c.backend)
	}
	if n.r.IntN(2) == 0 {
		if got := n.reply(c, &layers.TCP{ACK: true, Seq: c.isn + 1, Ack: 1001, Window: 1000}); got != vip4+":90" {
			n.Errorf("reply to %s:%d comes from %s", c.src, c.sport, got)
		}
	}
}

// end closes a connection and may open another from the same port at once.
func (n *network) end() {
	i := n.r.IntN(len(n.conns))
	c := n.conns[i]
	n.conns[i] = n.conns[len(n.conns)-1]
	n.conns = n.conns[:len(n.conns)-1]
	if n.r.IntN(2) == 0 {
		n.packet(c, &layers.TCP{RST: true, Seq: 1001})
		n.reply(c, &layers.TCP{RST: true, Seq: c.isn + 1})
	} else {
		n.packet(c, &layers.TCP{FIN: true, ACK: true, Seq: 1001, Ack: c.isn + 1})
		n.reply(c, &layers.TCP{FIN: true, ACK: true, Seq: c.isn + 1, Ack: 1002})
		n.packet(c, &layers.TCP{ACK: true, Seq: 1002, Ack: c.isn + 2})
	}
	if n.r.IntN(2) == 0 {
		n.open(c.src, c.sport, true)
	}
}

// change applies another set of replicas, sometimes with a second service that
// shares them, so that flows have to get entries of their own.
func (n *network) change() {
	var backends []string
	for i := range 8 {
		if n.r.IntN(2) == 0 {
			backends = append(backends, fmt.Sprintf("10.1.0.%d", 2+i))
		}
	}
	if len(backends) == 0 {
		backends = []string{"10.1.0.2"}
	}
	services := []model.Service{service("web", vip4, "", webPorts, backends...)}
	if n.r.IntN(5) == 0 {
		services = append(services, service("other", "198.18.0.11", "", webPorts, backends...))
	}
	for i := range services {
		services[i].Drain = 24 * time.Hour
	}
	n.apply(services...)
}

// Issue "L4 ahead of every anchor": thousands of flows through random changes
// of the replicas, any number in a row, with sweeps, agents that come and go,
// idle flows, reused ports and unfinished handshakes: every packet goes to its
// connection's backend, and every reply comes from the VIP. The recorded long
// run has FAIRLEAD_TEST_SEEDS=60.
func TestA05RandomChangesMoveNobody(t *testing.T) {
	seeds := uint64(6)
	if n, err := strconv.ParseUint(os.Getenv("FAIRLEAD_TEST_SEEDS"), 10, 16); err == nil {
		seeds = n
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			cfg := small
			cfg.Backends = 4096 // nothing is released for a day
			n := &network{plane: newSizedPlane(t, cfg), r: rand.New(rand.NewPCG(seed, 9))}
			n.change()
			for range 3000 {
				switch p := n.r.IntN(100); {
				case p < 35:
					n.next++
					n.open(fmt.Sprintf("203.0.113.%d", 1+n.next%200), uint16(1024+n.next/200), n.r.IntN(5) > 0)
				case p < 40:
					n.next++ // one replica calls the service
					n.open(fmt.Sprintf("10.1.0.%d", 2+n.next%8), uint16(1024+n.next), true)
				case p < 80 && len(n.conns) > 0:
					n.check(n.conns[n.r.IntN(len(n.conns))], "packet")
				case p < 86:
					n.change()
				case p < 87 && len(n.conns) > 0:
					n.apply() // the service is gone: its connections drain
					for range 10 {
						n.check(n.conns[n.r.IntN(len(n.conns))], "packet without a service")
					}
					n.change()
				case p < 90:
					n.now = n.now.Add(2 * time.Second)
					if err := n.target.Sweep(); err != nil {
						t.Fatal(err)
					}
				case p < 92:
					n.restart()
				case len(n.conns) > 0:
					n.end()
				}
				if t.Failed() {
					return
				}
			}
			for _, c := range n.conns {
				n.check(c, "last packet")
			}
			t.Logf("%d connections opened, %d live at the end", n.next, len(n.conns))
		})
	}
}
