// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Layout of fl_stats (bpf/lib/types.h).
const (
	statReasons = 32
	statSlots   = 256
)

// EachPacketCount calls yield for every counter above zero: the interface's
// slot, the index into Reasons, packets over all CPUs.
func (o *Objects) EachPacketCount(yield func(slot uint32, reason int, packets uint64)) error {
	counts, err := o.packetCounts()
	if err != nil {
		return fmt.Errorf("read packet counters: %w", err)
	}
	for i, n := range counts {
		if n > 0 && i%statReasons < len(Reasons) {
			yield(uint32(i/statReasons), i%statReasons, n)
		}
	}
	return nil
}

// packetCounts reads the whole array, summed over the CPUs: in one call where
// the kernel can (5.13), else cell by cell.
func (o *Objects) packetCounts() ([]uint64, error) {
	m := o.maps[lbMapFlStats]
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	out := make([]uint64, statSlots*statReasons)
	keys, perCPU := make([]uint32, len(out)), make([]uint64, len(out)*cpus)
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, keys, perCPU, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || n < len(out) {
		return out, o.eachCell(out)
	}
	for i, key := range keys {
		for _, c := range perCPU[i*cpus : (i+1)*cpus] {
			out[key] += c
		}
	}
	return out, nil
}

func (o *Objects) eachCell(out []uint64) error {
	var perCPU []uint64
	for i := range out {
		if err := o.maps[lbMapFlStats].Lookup(uint32(i), &perCPU); err != nil {
			return err
		}
		for _, c := range perCPU {
			out[i] += c
		}
	}
	return nil
}

// ServiceStats reads the counters of a service id.
func (o *Objects) ServiceStats(id uint32) (ServiceStats, error) {
	var perCPU []lbSvcStats
	if err := o.maps[lbMapFlSvcStats].Lookup(id, &perCPU); err != nil {
		return ServiceStats{}, fmt.Errorf("read counters of service id %d: %w", id, err)
	}
	var s ServiceStats
	for _, c := range perCPU {
		s.Connections += c.Connections
		s.PacketsIn += c.PacketsIn
		s.BytesIn += c.BytesIn
		s.PacketsOut += c.PacketsOut
		s.BytesOut += c.BytesOut
		s.Reopened += c.Reopened
	}
	return s, nil
}

// ResetServiceStats zeroes the counters of an id before it names another service.
func (o *Objects) ResetServiceStats(id uint32) error {
	cpus := o.maps[lbMapFlSvcStats]
	var perCPU []lbSvcStats
	if err := cpus.Lookup(id, &perCPU); err != nil {
		return fmt.Errorf("reset counters of service id %d: %w", id, err)
	}
	clear(perCPU)
	if err := cpus.Put(id, perCPU); err != nil {
		return fmt.Errorf("reset counters of service id %d: %w", id, err)
	}
	return nil
}
