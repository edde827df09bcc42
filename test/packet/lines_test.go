// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// crowd are services that one client speaks to by one port: more than a line of
// bpf/lib/handshake.h has places, of which the client's end has but one line.
func crowd(balance model.Balance) (services []model.Service) {
	for i := range 12 {
		svc := service(fmt.Sprint("s", i), fmt.Sprint("198.18.1.", i+1), "", webPorts, fmt.Sprint("10.2.0.", i+1))
		svc.Balance = balance
		services = append(services, svc)
	}
	return services
}

// All handshakes of a client that connects to many services at once by one port
// are answered, whether flows have one entry or two.
func TestOnePortToManyServices(t *testing.T) {
	for _, affinity := range []string{"", "client-ip"} {
		t.Run("affinity="+affinity, func(t *testing.T) {
			eachHook(t, func(p *plane, h hook) {
				services := crowd(model.Balance{Affinity: affinity})
				p.apply(services...)
				for _, tcp := range []struct {
					client, backend func() frame
				}{
					{func() frame { return frame{tcp: syn()} }, func() frame { return frame{tcp: synAck()} }},
					{func() frame { return frame{tcp: ack()} }, func() frame { return frame{tcp: ack()} }},
				} {
					for _, svc := range services {
						f := tcp.client()
						f.src, f.dst, f.sport, f.dport = client4, svc.VIP4.String(), clientPort, 90
						if _, _, moved := p.run(h.prog(p), f.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
							t.Fatalf("to %s: %v", svc.VIP4, moved)
						}
					}
					for _, svc := range services {
						f := tcp.backend()
						f.src, f.dst, f.sport, f.dport = svc.Backends[0].Addr4.String(), client4, 8090, clientPort
						_, out, moved := p.run(h.prog(p), f.bytes(t))
						if fmt.Sprint(moved) != "[1/replied]" {
							t.Fatalf("from %s: %v", svc.VIP4, moved)
						}
						if got := netip.AddrFrom4([4]byte(out[26:30])); got != svc.VIP4 {
							t.Fatalf("from %s, and not %s", got, svc.VIP4)
						}
					}
				}
			})
		})
	}
}

// A socket that sends datagrams to many services, and gets no answer, has one
// flow with each of them.
func TestOnePortToManyServicesUnanswered(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		services := crowd(model.Balance{})
		p.apply(services...)
		for range 3 {
			for _, svc := range services {
				f := datagram4()
				f.dst = svc.VIP4.String()
				if _, _, moved := p.run(h.prog(p), f.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
					t.Fatalf("to %s: %v", svc.VIP4, moved)
				}
			}
		}
		stats, err := p.target.Stats()
		if err != nil {
			t.Fatal(err)
		}
		flows := 0
		for _, c := range stats.Services {
			if flows += int(c.Connections); c.PacketsIn != 3*c.Connections {
				t.Errorf("%s has %d packets in %d flows", c.Service, c.PacketsIn, c.Connections)
			}
		}
		if flows != len(services) {
			t.Errorf("%d flows, want one to each of %d services", flows, len(services))
		}
	})
}

// What no line can tell is found also if nothing of the kind was there for long:
// programs do not look into an empty table.
func TestHairpinAfterNone(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		p.embryosUnused()
		call := request4()
		call.src = back4
		p.expect(h, "call", call.bytes(t), h.out, call.toBackend(vip4, back4, clientPort, 8090).bytes(t), "1/forwarded")
		reply := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: vip4, sport: 8090, dport: clientPort, tcp: synAck()}
		p.expect(h, "reply", reply.bytes(t), h.out, reply.toClient(vip4, back4, 90, clientPort).bytes(t), "1/replied")
	})
}

// A client's own end may be a service: its packets' answers go to one, then, and
// are replies all the same.
func TestClientThatIsAService(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		const other = "198.18.0.11"
		sticky := service("sticky", other, "", webPorts, "10.1.0.3")
		sticky.Balance = model.Balance{Affinity: "client-ip"}
		p.apply(web(), sticky)
		call := request4()
		call.src, call.sport = other, 90
		p.expect(h, "call", call.bytes(t), h.out, call.toBackend(other, back4, 90, 8090).bytes(t), "1/forwarded")
		reply := frame{srcMAC: backMAC, dstMAC: nodeMAC, src: back4, dst: other, sport: 8090, dport: 90, tcp: ack()}
		p.expect(h, "reply", reply.bytes(t), h.out, reply.toClient(vip4, other, 90, 90).bytes(t), "1/replied")
	})
}

// embryosUnused has this plane's programs believe that fl_embryos was empty since
// the machine began.
func (p *plane) embryosUnused() {
	p.Helper()
	p.ownMaps("fl_embryos_used", func(m *ebpf.Map) error { return m.Put(uint32(0), uint64(0)) })
}

// ownMaps does something with the maps of a name that this process has a descriptor
// of: other packages' tests have some of that name, too.
func (p *plane) ownMaps(name string, do func(*ebpf.Map) error) {
	p.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		p.Fatal(err)
	}
	found := 0
	for _, path := range infos {
		info, err := os.ReadFile(path)
		if err != nil {
			continue // closed meanwhile
		}
		var id ebpf.MapID
		for line := range strings.Lines(string(info)) {
			_, _ = fmt.Sscanf(line, "map_id:\t%d", &id)
		}
		if id == 0 {
			continue
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		if info, err := m.Info(); err == nil && info.Name == name[:min(len(name), 15)] {
			if err := do(m); err != nil {
				p.Error(err)
			}
			found++
		}
		_ = m.Close()
	}
	if found == 0 {
		p.Fatalf("this process has no map %s", name)
	}
}

// Affinity is a promise to each of many clients, also when a replica more changes
// where the table leads.
func TestAffinityOfManyClients(t *testing.T) {
	const n = 30_000
	eachHook(t, func(p *plane, h hook) {
		sticky := func(backends ...string) model.Service {
			svc := service("web", vip4, "", webPorts, backends...)
			svc.Balance = model.Balance{Affinity: "client-ip"}
			return svc
		}
		visit := func(i int, port uint16) string {
			f := request4()
			f.src, f.sport = fmt.Sprintf("172.%d.%d.%d", 16+i>>16, i>>8&0xff, i&0xff), port
			_, out := p.send(h.prog(p), f.bytes(t))
			return netip.AddrFrom4([4]byte(out[30:34])).String()
		}
		p.apply(sticky("10.1.0.2", "10.1.0.3"))
		first := make([]string, n)
		for i := range first {
			first[i] = visit(i, 1000)
		}
		p.apply(sticky("10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"))
		moved := 0
		for i, want := range first {
			if visit(i, 2000) != want {
				moved++
			}
		}
		// The kernel's table of which so many clients are half would lose as few.
		if moved > n/10_000 {
			t.Errorf("%d of %d clients moved", moved, n)
		}
	})
}
