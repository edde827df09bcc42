// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/dataplane"
	"github.com/fairlead-lb/fairlead/test/feature"
)

// answer4 is what the backend sends to the client of datagram4.
func answer4(port uint16) frame {
	return frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: client4, sport: 5353, dport: port, udp: true, payload: []byte("answer")}
}

// flows are the entries over UDP: of lines, and of the table of those that last.
func (p *plane) datagramFlows() (early, lasting int) {
	p.Helper()
	err := p.objects.EachFlow(func(k bpf.FlowKey, _ bpf.Flow, confirmed bool) bool {
		switch {
		case k.Proto != 17:
		case confirmed:
			lasting++
		default:
			early++
		}
		return true
	})
	if err != nil {
		p.Fatal(err)
	}
	return early, lasting
}

// A question and its answer leave nothing in the table of flows that last; what
// either end sends after them does.
func TestConversationsLast(t *testing.T) {
	for name, more := range map[string][]frame{
		"Question": {datagram4()},
		"Answer":   {answer4(clientPort)},
	} {
		t.Run(name, func(t *testing.T) {
			eachHook(t, func(p *plane, h hook) {
				p.apply(web())
				state := func(want string) {
					t.Helper()
					var got []string
					err := p.target.Flows(t.Context(), dataplane.FlowFilter{}, func(f dataplane.Flow) bool {
						got = append(got, f.State)
						return true
					})
					if err != nil || len(got) != 1 || got[0] != want {
						t.Errorf("flows are %v, %v; want one, %s", got, err, want)
					}
				}
				in, back := datagram4(), answer4(clientPort)
				for range 3 {
					p.expect(h, "question", in.bytes(t), h.out, in.toBackend(client4, back4, clientPort, 5353).bytes(t), "1/forwarded")
				}
				if early, lasting := p.datagramFlows(); early != 2 || lasting != 0 {
					t.Errorf("nobody has answered: %d entries early, %d that last, want 2 and 0", early, lasting)
				}
				state("new")
				p.expect(h, "answer", back.bytes(t), h.out, back.toClient(vip4, client4, 53, clientPort).bytes(t), "1/replied")
				state("established")
				if early, lasting := p.datagramFlows(); early != 2 || lasting != 0 {
					t.Errorf("a question and its answer: %d entries early, %d that last, want 2 and 0", early, lasting)
				}
				for _, f := range more {
					p.send(h.prog(p), f.bytes(t))
				}
				p.moved()
				state("established")
				if early, lasting := p.datagramFlows(); early != 0 || lasting != 2 {
					t.Errorf("a conversation: %d entries early, %d that last, want 0 and 2", early, lasting)
				}
				p.expect(h, "question", in.bytes(t), h.out, in.toBackend(client4, back4, clientPort, 5353).bytes(t), "1/forwarded")
				p.expect(h, "answer", back.bytes(t), h.out, back.toClient(vip4, client4, 53, clientPort).bytes(t), "1/replied")
			})
		})
	}
}

// age makes all flows in lines older by so many jiffies (struct handshake_line in
// bpf/lib/lines.h).
func (p *plane) age(jiffies uint32) {
	p.Helper()
	const since, places = 48, 4
	p.ownMaps("fl_handshakes", func(m *ebpf.Map) error {
		line := make([]byte, m.ValueSize())
		for i := range m.MaxEntries() {
			if err := m.Lookup(i, line); err != nil {
				return err
			}
			for at := range places {
				b := line[since+4*at:]
				binary.NativeEndian.PutUint32(b, binary.NativeEndian.Uint32(b)-jiffies)
			}
			if err := m.Put(i, line); err != nil {
				return err
			}
		}
		return nil
	})
}

// A flow over UDP lives for two minutes at least after its client's last datagram,
// answered or not; each one begins that time anew. A handshake lives a fourth of it.
func TestDatagramFlowsLive(t *testing.T) {
	const handshake, datagram = 1 << 15, 1 << 17 // jiffies
	for _, h := range hooks {
		t.Run(h.name, func(t *testing.T) {
			if h.name == "xdp" {
				feature.Needs(t, feature.XDPTestContext)
			}
			p := newSizedPlane(t, bpf.Config{Services: 64, Backends: 64, Slots: 1 << 16, Flows: 1 << 13, Embryos: 1 << 10, HashSeed: 7})
			p.apply(web())
			flows := func() (n uint64) {
				stats, err := p.target.Stats()
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range stats.Services {
					n += s.Connections
				}
				return n
			}
			for _, step := range []struct {
				name  string
				frame frame
				older uint32
				flows uint64
			}{
				{"first", datagram4(), 0, 1},
				{"soon", datagram4(), handshake + 1000, 1},
				{"at the end of its life", datagram4(), datagram - 10_000, 1},
				{"at the end of another", datagram4(), datagram - 10_000, 1},
				{"too late", datagram4(), datagram + 10, 2},
				{"SYN", request4(), 0, 3},
				{"SYN again", request4(), handshake - 10_000, 3},
				{"SYN too late", request4(), handshake + 10, 4},
			} {
				p.age(step.older)
				p.send(h.prog(p), step.frame.bytes(t))
				if n := flows(); n != step.flows {
					t.Errorf("%s: %d flows have begun, want %d", step.name, n, step.flows)
				}
			}
		})
	}
}

// A flow that nobody answers leaves a backend that is gone, its drain over.
func TestSilentFlowsLeaveGoneBackends(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		for i, back := range []string{back4, "10.1.0.3"} {
			svc := service("web", vip4, "", webPorts, back)
			p.apply(svc)
			p.now = p.now.Add(time.Hour)
			if err := p.target.Sweep(); err != nil {
				t.Fatal(err)
			}
			f := datagram4()
			p.expect(h, fmt.Sprint("backend ", i), f.bytes(t), h.out, f.toBackend(client4, back, clientPort, 5353).bytes(t), "1/forwarded")
		}
	})
}

// A client's datagrams keep its flow young, also where no line can tell it.
func TestSilentFlowsStayYoung(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		hairpin := datagram4()
		hairpin.src = back4
		for name, f := range map[string]frame{"line": datagram4(), "hairpin": hairpin} {
			seen := func() (at uint32) {
				p.run(h.prog(p), f.bytes(t))
				err := p.objects.EachFlow(func(k bpf.FlowKey, e bpf.Flow, _ bool) bool {
					if k.Src.Addr().String() == f.src && k.Proto == 17 && e.Flags&bpf.FlowReply == 0 {
						at = e.Seen
					}
					return true
				})
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
			before := seen()
			time.Sleep(50 * time.Millisecond) // at least five jiffies
			if after := seen(); before == 0 || after == before {
				t.Errorf("%s: seen at %d, and at %d 50 ms later", name, before, after)
			}
		}
	})
}

// Connections that are idle keep their entries while clients ask more questions
// than the table has places, each answered (issue 3, 6).
func TestQuestionsEvictNobody(t *testing.T) {
	const size, idle, questions = 1 << 13, 50, 3 << 13
	for _, h := range hooks {
		t.Run(h.name, func(t *testing.T) {
			if h.name == "xdp" {
				feature.Needs(t, feature.XDPTestContext)
			}
			p := newSizedPlane(t, bpf.Config{Services: 64, Backends: 64, Slots: 1 << 16, Flows: size, Embryos: 1 << 12, HashSeed: 7})
			p.apply(web())
			kept := func() (n int) {
				err := p.objects.EachFlow(func(k bpf.FlowKey, _ bpf.Flow, confirmed bool) bool {
					if confirmed && k.Proto == 6 {
						n++
					}
					return true
				})
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			for i := range idle {
				f := request4()
				f.sport = uint16(1000 + i)
				reply := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: client4, sport: 8090, dport: f.sport, tcp: synAck()}
				p.send(h.prog(p), f.bytes(t))
				p.send(h.prog(p), reply.bytes(t))
				f.tcp = ack()
				p.send(h.prog(p), f.bytes(t))
			}
			if n := kept(); n != idle {
				t.Fatalf("%d connections have entries, want %d", n, idle)
			}
			p.moved()
			for i := range questions {
				port := uint16(2000 + i)
				f := datagram4()
				f.sport = port
				p.send(h.prog(p), f.bytes(t))
				p.send(h.prog(p), answer4(port).bytes(t))
			}
			if got, want := fmt.Sprint(p.moved()), fmt.Sprintf("[1/forwarded*%d 1/replied*%[1]d]", questions); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if n := kept(); n != idle {
				t.Errorf("%d of %d idle connections have their entry after %d questions", n, idle, questions)
			}
		})
	}
}
