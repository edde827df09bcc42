// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
)

const (
	backendSize  = int64(unsafe.Sizeof(lbBackend{}))
	slotsPerLine = uint32(unsafe.Sizeof(lbSlotLine{}) / 4)
)

// Sizes tells how much the maps hold.
func (o *Objects) Sizes() Sizes {
	return Sizes{
		Services: o.maps[lbMapFlServices].MaxEntries(),
		Backends: o.maps[lbMapFlBackends].MaxEntries(),
		Slots:    o.maps[lbMapFlSlots].MaxEntries() * slotsPerLine,
		Flows:    o.maps[lbMapFlFlows].MaxEntries(),
	}
}

// Sizes are the capacities of the maps, in entries.
type Sizes struct{ Services, Backends, Slots, Flows uint32 }

// EachService calls yield for every service entry, in no order, until it returns false.
func (o *Objects) EachService(yield func(ServiceKey, Service) bool) error {
	err := each(o.maps[lbMapFlServices], func(k *lbServiceKey, v *lbService) bool {
		return yield(serviceKeyOf(*k), serviceOf(*v))
	})
	if err != nil {
		return fmt.Errorf("read services: %w", err)
	}
	return nil
}

// PutService writes a service entry; programs see the old or the new one whole.
func (o *Objects) PutService(k ServiceKey, s Service) error {
	if err := o.maps[lbMapFlServices].Put(k.kernel(), s.kernel()); err != nil {
		return fmt.Errorf("write service %s port %d: %w", k.VIP, k.Port, err)
	}
	return nil
}

// DeleteService removes a service entry; one that is gone is no error.
func (o *Objects) DeleteService(k ServiceKey) error {
	err := o.maps[lbMapFlServices].Delete(k.kernel())
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete service %s port %d: %w", k.VIP, k.Port, err)
	}
	return nil
}

// EachAllow calls yield for every entry of every allow list until it returns false.
func (o *Objects) EachAllow(yield func(Allow) bool) error {
	err := each(o.maps[lbMapFlAllow], func(k *lbAllowKey, _ *uint32) bool { return yield(allowOf(*k)) })
	if err != nil {
		return fmt.Errorf("read allow lists: %w", err)
	}
	return nil
}

// PutAllow adds to a service's allow list.
func (o *Objects) PutAllow(a Allow) error {
	if err := o.maps[lbMapFlAllow].Put(a.kernel(), uint32(1)); err != nil {
		return fmt.Errorf("allow %s: %w", a.Source, err)
	}
	return nil
}

// DeleteAllow removes from a service's allow list; what is gone is no error.
func (o *Objects) DeleteAllow(a Allow) error {
	err := o.maps[lbMapFlAllow].Delete(a.kernel())
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("no longer allow %s: %w", a.Source, err)
	}
	return nil
}

// EachBackend calls yield for every entry in use, by rising index, until it
// returns false.
func (o *Objects) EachBackend(yield func(uint32, Backend) bool) error {
	all := o.maps[lbMapFlBackends].MaxEntries()
	some := make([]lbBackend, min(all, batch))
	for first := uint32(0); first < all; first += batch {
		some = some[:min(all-first, batch)]
		if _, err := o.backends.ReadAt(bytesOf(some), int64(first)*backendSize); err != nil {
			return fmt.Errorf("read backends %d+%d: %w", first, len(some), err)
		}
		for i := range some {
			if some[i].Flags&BackendUsed != 0 && !yield(first+uint32(i), backendOf(some[i])) {
				return nil
			}
		}
	}
	return nil
}

// PutBackend writes an entry. The address and port of an entry in use never
// change: programs may read it in the middle of the write.
func (o *Objects) PutBackend(i uint32, b Backend) error {
	if n := o.Sizes().Backends; i >= n {
		return fmt.Errorf("write backend %d (%s): the map holds %d", i, b.Addr, n)
	}
	if _, err := o.backends.WriteAt(bytesOf([]lbBackend{b.kernel()}), int64(i)*backendSize); err != nil {
		return fmt.Errorf("write backend %d (%s): %w", i, b.Addr, err)
	}
	return nil
}

// Slots reads table slots from base on, as many as fit.
func (o *Objects) Slots(base uint32, into []uint32) error {
	if n := o.Sizes().Slots; uint64(base)+uint64(len(into)) > uint64(n) {
		return fmt.Errorf("read slots %d+%d: the map holds %d", base, len(into), n)
	}
	if len(into) == 0 {
		return nil
	}
	if _, err := o.slots.ReadAt(bytesOf(into), 4*int64(base)); err != nil {
		return fmt.Errorf("read slots %d+%d: %w", base, len(into), err)
	}
	return nil
}

// PutSlots writes table slots from base on. No service may point there yet.
func (o *Objects) PutSlots(base uint32, ids []uint32) error {
	if n := o.Sizes().Slots; uint64(base)+uint64(len(ids)) > uint64(n) {
		return fmt.Errorf("write slots %d+%d: the map holds %d", base, len(ids), n)
	}
	if len(ids) == 0 {
		return nil
	}
	if _, err := o.slots.WriteAt(bytesOf(ids), 4*int64(base)); err != nil {
		return fmt.Errorf("write slots %d+%d: %w", base, len(ids), err)
	}
	return nil
}

// bytesOf is what the values look like in the kernel: they are in the order of
// its bytes, without holes.
func bytesOf[T uint32 | lbBackend](values []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(values))), len(values)*int(unsafe.Sizeof(*new(T))))
}

// SetIface tells the programs what they may do with an interface
// (attach.IfaceXDPXmit, attach.IfacePeer), which counters are its own (slot 1 …
// 255) and the longest IP packet it takes (0: not known), of which kernels before
// 5.12 tell programs nothing.
func (o *Objects) SetIface(ifindex uint32, slot, flags uint8, mtu uint16) error {
	err := o.maps[lbMapFlIfaces].Put(ifindex&0xffff, lbIface{Ifindex: ifindex, Slot: slot, Flags: flags, Mtu: mtu})
	if err != nil {
		return fmt.Errorf("write interface %d: %w", ifindex, err)
	}
	return nil
}

// ClearIface forgets an interface.
func (o *Objects) ClearIface(ifindex uint32) error {
	if err := o.maps[lbMapFlIfaces].Put(ifindex&0xffff, lbIface{}); err != nil {
		return fmt.Errorf("clear interface %d: %w", ifindex, err)
	}
	return nil
}
