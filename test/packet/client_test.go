// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Row L11: a service with an allow list has no other clients.
func TestL11AllowList(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		svc := web()
		svc.Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:9::/48")}
		p.apply(svc, service("open", "198.18.0.11", "", webPorts, back4))
		for _, c := range []struct {
			f    frame
			src  string
			want bool
		}{
			{request4(), client4, true},
			{request4(), "203.0.114.9", false},
			{request4(), "203.0.112.255", false},
			{request6(), client6, true},
			{request6(), "2001:db8:a::9", false},
			{datagram4(), client4, true},
			{datagram4(), "198.51.100.7", false},
		} {
			c.f.src = c.src
			_, _, moved := p.run(h.prog(p), c.f.bytes(t))
			want := "[1/not_allowed]"
			if c.want {
				want = "[1/forwarded]"
			}
			if fmt.Sprint(moved) != want {
				t.Errorf("%s to %s: %v, want %s", c.src, c.f.dst, moved, want)
			}
		}
		other := request4()
		other.src, other.dst = "198.51.100.7", "198.18.0.11"
		if _, _, moved := p.run(h.prog(p), other.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
			t.Errorf("a service without a list: %v", moved)
		}
		svc.Allow = nil
		p.apply(svc)
		denied := request4()
		denied.src = "203.0.114.9"
		if _, _, moved := p.run(h.prog(p), denied.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
			t.Errorf("after the list is gone: %v", moved)
		}
	})
}

// Connections per second and client: the burst passes, the rest is dropped,
// other clients are not concerned, packets of open connections always pass.
func TestRateLimit(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		svc := web()
		svc.RateLimit = model.RateLimit{PerSecond: 1, Burst: 10}
		p.apply(svc)
		passed, begun := 0, time.Now()
		for i := range 100 {
			f := request4()
			f.sport = uint16(20000 + i)
			if _, _, moved := p.run(h.prog(p), f.bytes(t)); fmt.Sprint(moved) == "[1/forwarded]" {
				passed++
			}
		}
		// One more each second, and one that the clock's grain may add.
		if most := 11 + int(time.Since(begun).Seconds()+1); passed < 10 || passed > most {
			t.Errorf("%d of 100 connections passed, the burst is 10, and %d may in this time", passed, most)
		}
		other := request4()
		other.src = "203.0.113.10"
		if _, _, moved := p.run(h.prog(p), other.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
			t.Errorf("another client: %v", moved)
		}
		open := request4()
		open.sport, open.tcp = 20000, ack()
		if _, _, moved := p.run(h.prog(p), open.bytes(t)); fmt.Sprint(moved) != "[1/forwarded]" {
			t.Errorf("an open connection: %v", moved)
		}
	})
}

// backendOf tells where a new connection of a client goes.
func (p *plane) backendOf(h hook, client string, port uint16) string {
	p.Helper()
	f := request4()
	f.src, f.sport = client, port
	_, out, moved := p.run(h.prog(p), f.bytes(p.T))
	if fmt.Sprint(moved) != "[1/forwarded]" {
		p.Fatalf("connection from %s:%d: %v", client, port, moved)
	}
	return netip.AddrFrom4([4]byte(out[30:34])).String()
}

// Affinity: a client stays with its backend, also when others come, and
// yields to drain.
func TestAffinity(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		backends := []string{"10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"}
		sticky := func(n int) model.Service {
			svc := service("web", vip4, "", webPorts, backends[:n]...)
			svc.Balance = model.Balance{Affinity: "client-ip", AffinityTimeout: time.Hour}
			return svc
		}
		p.apply(sticky(3))
		first := map[string]string{}
		seen := map[string]bool{}
		for c := range 20 {
			client := fmt.Sprintf("203.0.113.%d", c+1)
			first[client] = p.backendOf(h, client, 1000)
			seen[first[client]] = true
			for port := range uint16(10) {
				if got := p.backendOf(h, client, 2000+port); got != first[client] {
					t.Fatalf("%s was at %s and is at %s", client, first[client], got)
				}
			}
		}
		if len(seen) < 2 {
			t.Errorf("20 clients went to %v only", seen)
		}
		p.apply(sticky(4))
		for client, want := range first {
			if got := p.backendOf(h, client, 3000); got != want {
				t.Errorf("a replica came and %s moved from %s to %s", client, want, got)
			}
		}
		draining := sticky(4)
		draining.Backends[0].Condition = model.Draining
		p.apply(draining)
		for client, want := range first {
			if got := p.backendOf(h, client, 4000); got == "10.1.0.2" || want != "10.1.0.2" && got != want {
				t.Errorf("10.1.0.2 drains: %s moved from %s to %s", client, want, got)
			}
		}
	})
}

// Issue "L4 ahead of every anchor", 13: sources that cannot be answered.
func TestMartiansAreDropped(t *testing.T) {
	eachHook(t, func(p *plane, h hook) {
		p.apply(web())
		for _, src := range []string{"127.0.0.1", "0.0.0.0", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", vip4} {
			for _, f := range []frame{request4(), datagram4()} {
				f.src = src
				p.expect(h, src, f.bytes(t), h.drop, nil, "1/martian")
				f.dport = 9999
				p.expect(h, src+" to an unserved port", f.bytes(t), h.drop, nil, "1/martian")
			}
			ping := frame{src: src, dst: vip4, icmp4: &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 1}}
			p.expect(h, src+" echo", ping.bytes(t), h.drop, nil, "1/martian")
		}
		for _, src := range []string{"::", "::1", "ff02::1", vip6} {
			f := request6()
			f.src = src
			p.expect(h, src, f.bytes(t), h.drop, nil, "1/martian")
		}
		// An IPv4 address mapped into an IPv6 header must not be taken for IPv4.
		mapped := request6().bytes(t)
		vip := netip.MustParseAddr(vip4).As16()
		copy(mapped[14+24:], vip[:])
		p.expect(h, "mapped destination", mapped, h.pass, nil, "1/malformed")
	})
}
