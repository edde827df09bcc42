// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
)

// filterBits is FILTER_BITS of bpf/lib/maps.h.
const filterBits = 1 << 21

// filterBit is hash_addr of bpf/lib/addr.h.
func filterBit(a netip.Addr) uint32 {
	w := toAddr(a)
	h := w[3] ^ w[2]*0x85ebca6b ^ w[1]*0xc2b2ae35 ^ w[0]*0x27d4eb2f
	return h * 0x9e3779b1 >> 11
}

// AddFilter tells the programs that the addresses may be ours. Until then
// packets to and from them pass untouched.
func (o *Objects) AddFilter(addrs iter.Seq[netip.Addr]) error {
	var word [8]byte
	for a := range addrs {
		bit := filterBit(a)
		at := int64(bit / 64 * 8)
		if _, err := o.filter.ReadAt(word[:], at); err != nil {
			return fmt.Errorf("read address filter: %w", err)
		}
		old := binary.NativeEndian.Uint64(word[:])
		now := old | 1<<(bit%64)
		if now == old {
			continue
		}
		binary.NativeEndian.PutUint64(word[:], now)
		if _, err := o.filter.WriteAt(word[:], at); err != nil {
			return fmt.Errorf("write address filter: %w", err)
		}
	}
	return nil
}

// SetFilter makes the addresses the only ones that may be ours; it writes
// nothing if they are.
func (o *Objects) SetFilter(addrs iter.Seq[netip.Addr]) error {
	bits, have := make([]byte, filterBits/8), make([]byte, filterBits/8)
	for a := range addrs {
		bit := filterBit(a)
		at := bits[bit/64*8:]
		binary.NativeEndian.PutUint64(at, binary.NativeEndian.Uint64(at)|1<<(bit%64))
	}
	if _, err := o.filter.ReadAt(have, 0); err != nil {
		return fmt.Errorf("read address filter: %w", err)
	}
	if bytes.Equal(have, bits) {
		return nil
	}
	if _, err := o.filter.WriteAt(bits, 0); err != nil {
		return fmt.Errorf("write address filter: %w", err)
	}
	return nil
}
