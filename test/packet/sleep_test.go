// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// holds makes a socket of this host for a connection from a client to a VIP:
// one that has only begun, as nobody answers it.
func holds(t *testing.T, vip, client netip.AddrPort) {
	t.Helper()
	family, level, option := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
	at := func(a netip.AddrPort) unix.Sockaddr {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	if vip.Addr().Is6() {
		family, level, option = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		at = func(a netip.AddrPort) unix.Sockaddr {
			return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
		}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, at(vip)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, at(client)); err != unix.EINPROGRESS {
		t.Fatalf("connect %s to %s: %v, want it under way", vip, client, err)
	}
}

// Row W01: new connections to a service that sleeps are the kernel's, unless
// the service would not have them; those from before go on to their replica.
func TestW01SleepingIsTheKernels(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		svc := web()
		svc.Ports = webPorts[:1]
		svc.Sleep = model.Awake
		p.apply(svc)
		for _, f := range []frame{request4(), request6()} {
			if _, _, moved := p.run(h.prog(p), f.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
				t.Fatalf("awake: %v", moved)
			}
		}
		svc.Sleep = model.Asleep
		for i := range svc.Backends {
			svc.Backends[i].Condition = model.Draining
		}
		p.apply(svc)
		for _, f := range []frame{request4(), request6()} {
			f.tcp = ack()
			if _, _, moved := p.run(h.prog(p), f.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
				t.Errorf("from before it slept: %v", moved)
			}
			f.tcp = syn()
			p.expect(h, "its SYN again, while the replica answers", f.bytes(t), h.drop, nil, "1/syn_again")
			f.sport++
			p.expect(h, "new connection", f.bytes(t), h.pass, nil, "1/held")
			f.tcp, f.sport = ack(), f.sport+1
			p.expect(h, "the end of a handshake by cookie", f.bytes(t), h.pass, nil, "1/held")
		}
		svc.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.77/32")}
		p.apply(svc)
		f := request4()
		f.sport += 9
		p.expect(h, "a client that is not allowed", f.bytes(t), h.drop, nil, "1/not_allowed")
	})
}

// Row W04: what this host holds stays its own when the service is awake.
func TestW04HeldStaysTheKernels(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		svc := web()
		svc.Sleep = model.Awake
		p.apply(svc)
		for i, f := range []frame{request4(), request6()} {
			f.sport = uint16(41000 + i)
			vip := netip.AddrPortFrom(netip.MustParseAddr(f.dst), f.dport)
			holds(p.T, vip, netip.AddrPortFrom(netip.MustParseAddr(f.src), f.sport))
			for _, tcp := range []*layers.TCP{syn(), ack()} {
				f.tcp = tcp
				p.expect(h, "held", f.bytes(t), h.pass, nil, "1/held")
			}
			f.tcp, f.sport = syn(), f.sport+10
			if _, _, moved := p.run(h.prog(p), f.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
				t.Errorf("another connection: %v", moved)
			}
			svc.Sleep = model.NeverSleeps // nobody asks the kernel
			p.apply(svc)
			f.sport -= 10
			if _, _, moved := p.run(h.prog(p), f.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
				t.Errorf("a service that never sleeps: %v", moved)
			}
			svc.Sleep = model.Awake
			p.apply(svc)
		}
	})
}

// Rows D03, D13: every datagram to a service that falls asleep is the kernel's,
// those of known flows too; a client that is not allowed wakes nobody; and what was
// held takes the way of a packet when it is replayed, so that the replies and the
// next datagrams of the client find its flow.
func TestD03DatagramsAreTheKernels(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		svc := web()
		svc.Ports = webPorts[1:]
		svc.Sleep = model.Awake
		p.apply(svc)
		all := []struct {
			frame
			back, client, vip string
		}{{datagram4(), back4, client4, vip4}, {datagram6(), back6, client6, vip6}}
		for _, f := range all {
			p.expect(h, "awake", f.bytes(t), h.out, f.toBackend(f.client, f.back, clientPort, 5353).bytes(t), "1/forwarded")
		}
		nap := func(asleep bool) {
			svc.Sleep = model.Awake
			condition := model.Ready
			if asleep {
				svc.Sleep, condition = model.Asleep, model.Draining
			}
			for i := range svc.Backends {
				svc.Backends[i].Condition = condition
			}
			p.apply(svc)
		}
		nap(true)
		for _, f := range all {
			p.expect(h, "of a known flow", f.bytes(t), h.pass, nil, "1/held")
			f.sport++
			p.expect(h, "of a new flow", f.bytes(t), h.pass, nil, "1/held")
			if out, held, err := p.objects.Replay(f.bytes(t), wireIndex); out != nil || !held || err != nil {
				t.Errorf("replayed while it sleeps: %x, %v, %v", out, held, err)
			}
			p.moved()
		}
		svc.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.77/32")}
		p.apply(svc)
		for _, f := range all {
			f.sport += 9
			p.expect(h, "a client that is not allowed", f.bytes(t), h.drop, nil, "1/not_allowed")
			if out, held, err := p.objects.Replay(f.bytes(t), wireIndex); out != nil || held || err != bpf.ErrDropped {
				t.Errorf("replayed of one that is not allowed: %x, %v, %v", out, held, err)
			}
			p.moved()
		}
		svc.Allow = nil
		nap(false)
		for _, f := range all {
			f.sport++
			out, held, err := p.objects.Replay(f.bytes(t), wireIndex)
			if held || err != nil {
				t.Fatalf("replayed: %v, %v", held, err)
			}
			if want := f.toBackend(f.client, f.back, f.sport, 5353).bytes(t); !bytes.Equal(out, want) {
				t.Errorf("replayed:\n%x, want\n%x", out, want)
			}
			p.moved()
			reply := frame{
				srcMAC: backMAC, dstMAC: nodeMAC, src: f.back, dst: f.client, sport: 5353, dport: f.sport, udp: true, payload: []byte("answer"),
			}
			p.expect(h, "reply", reply.bytes(t), h.out, reply.toClient(f.vip, f.client, 53, f.sport).bytes(t), "1/replied")
			p.expect(h, "the next one", f.bytes(t), h.out, f.toBackend(f.client, f.back, f.sport, 5353).bytes(t), "1/forwarded")
		}
	})
}
