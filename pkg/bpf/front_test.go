// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func frontsOf(t *testing.T) *Objects {
	t.Helper()
	return open(t, Config{Services: 64, Backends: 64, Slots: 1024, Flows: 1024, Embryos: 1024})
}

// front is what the table says of a service.
func front(t *testing.T, o *Objects, key ServiceKey) (s Service, there bool) {
	t.Helper()
	k := key.kernel()
	line, err := o.fronts.read(hashEnd(k) >> o.fronts.shift)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range line.Entry {
		if e.Vip.W == k.Vip.W && uint32(e.What) == frontUsed|uint32(k.Port) {
			return Service{ID: uint32(e.What >> 32), Base: uint32(e.Table), Len: uint32(e.Table >> 32)}, true
		}
	}
	return Service{}, false
}

// Only a service that is nothing but a table has a front, as long as it is that.
func TestFrontIsThePlainService(t *testing.T) {
	o := frontsOf(t)
	key := ServiceKey{VIP: netip.MustParseAddr("198.18.0.1"), Port: 90, Proto: protoTCP}
	udp := ServiceKey{VIP: key.VIP, Port: 90, Proto: 17}
	plain := Service{ID: 3, Base: 5, Len: 7}
	put := func(k ServiceKey, s Service) {
		t.Helper()
		if err := o.PutService(k, s); err != nil {
			t.Fatal(err)
		}
	}
	put(key, plain)
	put(udp, Service{ID: 4, Base: 12, Len: 7, Flows: true})
	put(ServiceKey{VIP: key.VIP}, Service{})
	if got, there := front(t, o, key); !there || got != plain {
		t.Errorf("front = %+v, %v, want %+v", got, there, plain)
	}
	for name, change := range map[string]func(*Service){
		"older tables":  func(s *Service) { s.Old[0] = Table{Base: 12, Len: 3} },
		"entries":       func(s *Service) { s.Flows = true },
		"an allow list": func(s *Service) { s.AllowOnly = true },
		"may sleep":     func(s *Service) { s.Wakes = true },
		"a rate":        func(s *Service) { s.Rate = 1 },
		"no table":      func(s *Service) { s.Len = 0 },
	} {
		s := plain
		change(&s)
		put(key, s)
		if got, there := front(t, o, key); there {
			t.Errorf("with %s there is a front: %+v", name, got)
		}
	}
	if err := o.DeleteService(key); err != nil {
		t.Fatal(err)
	}
	if _, there := front(t, o, key); there {
		t.Error("a deleted service has a front")
	}
}

// A place rests for a second: who found the old service there may be reading.
func TestFrontRests(t *testing.T) {
	o := frontsOf(t)
	// Three services of one line.
	var keys []ServiceKey
	for port := uint16(1); len(keys) < 3; port++ {
		k := ServiceKey{VIP: netip.MustParseAddr("fd00::1"), Port: port, Proto: protoTCP}
		if len(keys) == 0 || hashEnd(k.kernel())>>o.fronts.shift == hashEnd(keys[0].kernel())>>o.fronts.shift {
			keys = append(keys, k)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		put := func(i int, want bool) {
			t.Helper()
			if err := o.PutService(keys[i], Service{ID: uint32(i + 1), Len: 7}); err != nil {
				t.Fatal(err)
			}
			if _, there := front(t, o, keys[i]); there != want {
				t.Fatalf("service %d has a front: %v, want %v", i, there, want)
			}
		}
		put(0, true)
		put(1, true)
		put(2, false) // the line is full
		if err := o.DeleteService(keys[0]); err != nil {
			t.Fatal(err)
		}
		put(2, false)
		time.Sleep(frontRest)
		put(2, true)
	})
}

// Programs find fronts where the agent puts them: with the service gone from the
// hash, its clients' packets still go to its replica.
func TestProgramsFindFronts(t *testing.T) {
	for _, addrs := range [][3]string{{"198.18.0.1", "10.1.0.2", "192.0.2.7"}, {"fd00::1", "fd01::2", "2001:db8::7"}} {
		o := frontsOf(t)
		vip, back, client := netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1]), netip.MustParseAddr(addrs[2])
		key := ServiceKey{VIP: vip, Port: 90, Proto: protoTCP}
		for _, err := range []error{
			o.PutSlots(0, []uint32{5, 5, 5, 5, 5, 5, 5}),
			o.PutBackend(5, Backend{Addr: back, Port: 8090, Proto: protoTCP, Flags: BackendUsed | BackendOpen, IfIndex: 1, Service: 3}),
			o.AddFilter(func(yield func(netip.Addr) bool) { yield(vip) }),
			o.PutService(key, Service{ID: 3, Len: 7}),
			o.maps[lbMapFlServices].Delete(key.kernel()),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		out := make([]byte, 256)
		opts := &ebpf.RunOptions{Data: ackFrame(t, client, vip), DataOut: out}
		act, err := o.Programs().TC.Run(opts)
		const redirect = 7 // TC_ACT_REDIRECT
		if err != nil || act != redirect {
			t.Fatalf("%s: verdict %d, %v, want %d", vip, int32(act), err, redirect)
		}
		if got := gopacket.NewPacket(opts.DataOut, layers.LayerTypeEthernet, gopacket.Default).NetworkLayer().NetworkFlow().Dst(); got.String() != back.String() {
			t.Errorf("%s: sent to %v, want %s", vip, got, back)
		}
	}
}

// ackFrame is a segment in the middle of a connection.
func ackFrame(t *testing.T, from, to netip.Addr) []byte {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: make(net.HardwareAddr, 6), EthernetType: layers.EthernetTypeIPv4}
	tcp := &layers.TCP{SrcPort: 40000, DstPort: 90, ACK: true, Window: 1024}
	var ip gopacket.SerializableLayer
	if to.Is4() {
		l := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
		ip = l
		_ = tcp.SetNetworkLayerForChecksum(l)
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		l := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
		ip = l
		_ = tcp.SetNetworkLayerForChecksum(l)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp, gopacket.Payload("hello")); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
