// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
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

// Services reads every service entry.
func (o *Objects) Services() (map[ServiceKey]Service, error) {
	var (
		key lbServiceKey
		val lbService
		out = map[ServiceKey]Service{}
	)
	it := o.maps[lbMapFlServices].Iterate()
	for it.Next(&key, &val) {
		out[serviceKeyOf(key)] = serviceOf(val)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	return out, nil
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

// Allows reads every entry of every allow list.
func (o *Objects) Allows() (map[Allow]bool, error) {
	var (
		key lbAllowKey
		val uint32
		out = map[Allow]bool{}
	)
	it := o.maps[lbMapFlAllow].Iterate()
	for it.Next(&key, &val) {
		out[allowOf(key)] = true
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read allow lists: %w", err)
	}
	return out, nil
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

// Backends reads every entry in use, by index.
func (o *Objects) Backends() (map[uint32]Backend, error) {
	out := map[uint32]Backend{}
	buf := make([]byte, backendSize)
	for i := range o.maps[lbMapFlBackends].MaxEntries() {
		if _, err := o.backends.ReadAt(buf, int64(i)*backendSize); err != nil {
			return nil, fmt.Errorf("read backend %d: %w", i, err)
		}
		b := (*lbBackend)(unsafe.Pointer(&buf[0]))
		if b.Flags&BackendUsed != 0 {
			out[i] = backendOf(*b)
		}
	}
	return out, nil
}

// PutBackend writes an entry. The address and port of an entry in use never
// change: programs may read it in the middle of the write.
func (o *Objects) PutBackend(i uint32, b Backend) error {
	if n := o.Sizes().Backends; i >= n {
		return fmt.Errorf("write backend %d (%s): the map holds %d", i, b.Addr, n)
	}
	k := b.kernel()
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&k)), backendSize)
	if _, err := o.backends.WriteAt(buf, int64(i)*backendSize); err != nil {
		return fmt.Errorf("write backend %d (%s): %w", i, b.Addr, err)
	}
	return nil
}

// Slots reads n table slots from base.
func (o *Objects) Slots(base, n uint32) ([]uint32, error) {
	buf := make([]byte, 4*n)
	if n == 0 {
		return nil, nil
	}
	if _, err := o.slots.ReadAt(buf, 4*int64(base)); err != nil {
		return nil, fmt.Errorf("read slots %d+%d: %w", base, n, err)
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = binary.NativeEndian.Uint32(buf[4*i:])
	}
	return out, nil
}

// PutSlots writes table slots from base on. No service may point there yet.
func (o *Objects) PutSlots(base uint32, ids []uint32) error {
	if n := o.Sizes().Slots; uint64(base)+uint64(len(ids)) > uint64(n) {
		return fmt.Errorf("write slots %d+%d: the map holds %d", base, len(ids), n)
	}
	buf := make([]byte, 4*len(ids))
	for i, id := range ids {
		binary.NativeEndian.PutUint32(buf[4*i:], id)
	}
	if len(buf) == 0 {
		return nil
	}
	if _, err := o.slots.WriteAt(buf, 4*int64(base)); err != nil {
		return fmt.Errorf("write slots %d+%d: %w", base, len(ids), err)
	}
	return nil
}

// SetIface tells the programs what they may do with an interface and which
// counters are its own (slot 1 … 255; attach.IfaceXDPXmit, attach.IfacePeer).
func (o *Objects) SetIface(ifindex uint32, slot, flags uint16) error {
	err := o.maps[lbMapFlIfaces].Put(ifindex&0xffff, lbIface{Ifindex: ifindex, Slot: slot, Flags: flags})
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
