// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("loading BPF programs needs root")
	}
	t.Skip("loading BPF programs needs root")
}

// Label names are tested against the enum, which the object carries as BTF.
func TestReasonsNameTheEnum(t *testing.T) {
	spec, err := loadLb()
	if err != nil {
		t.Fatal(err)
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("reason", &enum); err != nil {
		t.Fatal(err)
	}
	if got, want := len(Reasons), len(enum.Values)-1; got != want {
		t.Fatalf("Reasons has %d entries, enum reason %d before REASON_MAX", got, want)
	}
	for _, v := range enum.Values {
		if v.Name == "REASON_MAX" {
			continue
		}
		want := strings.ToLower(strings.TrimPrefix(v.Name, "REASON_"))
		r := Reasons[v.Value]
		if r.Name != want || r.Verdict == "" || r.Help == "" {
			t.Errorf("Reasons[%d] = %+v, the enum says %s", v.Value, r, v.Name)
		}
	}
}

func TestAddrRoundTrip(t *testing.T) {
	for _, s := range []string{"198.18.0.1", "0.0.0.1", "255.255.255.255", "fd00::1", "::1", "2001:db8::ff"} {
		a := netip.MustParseAddr(s)
		if got := fromAddr(toAddr(a)); got != a {
			t.Errorf("%s came back as %s", a, got)
		}
	}
	if got := fromAddr(toAddr(netip.Addr{})); got.IsValid() {
		t.Errorf("no address came back as %s", got)
	}
}

func open(t *testing.T, cfg Config) *Objects {
	t.Helper()
	needRoot(t)
	o, err := Open(cfg)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { _ = o.Close() })
	return o
}

func TestMapsRoundTrip(t *testing.T) {
	o := open(t, Config{Services: 64, Backends: 64, Slots: 1024, Flows: 1024, Embryos: 1024})

	key := ServiceKey{VIP: netip.MustParseAddr("198.18.0.1"), Port: 90, Proto: 6}
	if err := o.PutService(key, Service{ID: 3, Base: 5, Len: 7}); err != nil {
		t.Fatal(err)
	}
	services := map[ServiceKey]Service{}
	err := o.EachService(func(k ServiceKey, s Service) bool { services[k] = s; return true })
	if err != nil || len(services) != 1 || services[key] != (Service{ID: 3, Base: 5, Len: 7}) {
		t.Fatalf("services = %v, %v", services, err)
	}
	if err := o.DeleteService(key); err != nil {
		t.Fatal(err)
	}
	if err := o.DeleteService(key); err != nil {
		t.Fatalf("deleting twice: %v", err)
	}

	b := Backend{
		Addr: netip.MustParseAddr("fd00::2"), Port: 8090, Proto: 17, Flags: BackendUsed | BackendMAC,
		IfIndex: 9, DMAC: [6]byte{1, 2, 3, 4, 5, 6}, SMAC: [6]byte{6, 5, 4, 3, 2, 1}, Service: 3,
	}
	if err := o.PutBackend(63, b); err != nil {
		t.Fatal(err)
	}
	backends := map[uint32]Backend{}
	err = o.EachBackend(func(i uint32, b Backend) bool { backends[i] = b; return true })
	if err != nil || len(backends) != 1 || backends[63] != b {
		t.Fatalf("backends = %v, %v", backends, err)
	}
	if err := o.PutBackend(64, b); err == nil {
		t.Fatal("a backend beyond the map was taken")
	}

	if err := o.PutSlots(1020, []uint32{1, 2, 3, 4}); err != nil {
		t.Fatal(err)
	}
	if err := o.PutSlots(1021, []uint32{1, 2, 3, 4}); err == nil {
		t.Fatal("slots beyond the map were taken")
	}
	got := make([]uint32, 4)
	if err := o.Slots(1020, got); err != nil || got[3] != 4 {
		t.Fatalf("slots = %v, %v", got, err)
	}
	if err := o.Slots(1021, got); err == nil {
		t.Fatal("slots beyond the map were read")
	}
}

// More entries than one system call reads are read once each, and the way of
// kernels that do not read tries in batches finds the same.
func TestEveryEntryIsRead(t *testing.T) {
	const n = 2*batch + 3
	o := open(t, Config{Services: 2 * n, Backends: n, Slots: 1024, Flows: 1024, Embryos: 1024})
	nth := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range n {
		err := errors.Join(
			o.PutService(ServiceKey{VIP: nth(i), Port: 90, Proto: 6}, Service{ID: uint32(i)}),
			o.PutAllow(Allow{Service: uint32(i), Source: netip.PrefixFrom(nth(i), 32)}),
			o.PutBackend(uint32(i), Backend{Addr: nth(i), Port: 80, Proto: 6, Flags: BackendUsed}),
		)
		if err != nil {
			t.Fatal(err)
		}
	}
	var services, allows, byKey, backends [n]int
	err := errors.Join(
		o.EachService(func(_ ServiceKey, s Service) bool { services[s.ID]++; return true }),
		o.EachAllow(func(a Allow) bool { allows[a.Service]++; return true }),
		eachByKey(o.maps[lbMapFlAllow], func(k *lbAllowKey, _ *uint32) bool { byKey[k.Service]++; return true }),
		o.EachBackend(func(i uint32, b Backend) bool {
			if b.Addr == nth(int(i)) {
				backends[i]++
			}
			return true
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if services[i] != 1 || allows[i] != 1 || byKey[i] != 1 || backends[i] != 1 {
			t.Fatalf("entry %d was read %d, %d, %d and %d times", i, services[i], allows[i], byKey[i], backends[i])
		}
	}
}

func TestClockRuns(t *testing.T) {
	o := open(t, Config{Services: 64, Backends: 64, Slots: 1024, Flows: 1024, Embryos: 1024})
	_, k1, err := o.Clock()
	if err != nil {
		t.Fatal(err)
	}
	_, k2, err := o.Clock()
	if err != nil || k2 <= k1 {
		t.Fatalf("clock went from %v to %v, %v", k1, k2, err)
	}
}
