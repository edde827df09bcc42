// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"maps"
	"math/bits"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

const (
	frontLineSize = int64(unsafe.Sizeof(lbFrontLine{}))
	frontUsed     = 1 << 16 // FRONT_USED of bpf/lib/types.h
	// frontRest is how long a place is left empty that a service had: a packet
	// that found it there reads the rest of it a moment later.
	frontRest = time.Second
)

// fronts is the table of bpf/lib/front.h: services that are nothing but a table
// once more, in a cache line.
type fronts struct {
	memory *ebpf.Memory
	shift  uint32

	mu    sync.Mutex
	rests map[frontPlace]time.Time // when the service there went
	prune int                      // so many rests are looked through for those that ended
}

// frontPlace is an entry of a line.
type frontPlace struct {
	line uint32
	at   int
}

// frontLines is the size of fl_fronts, a power of two: as many lines as services,
// of two places each. Those that find none are in fl_services alone.
func frontLines(services uint32) uint32 {
	return 1 << bits.Len32(max(services, 2)-1)
}

// frontShift is front_shift of bpf/lib/front.h.
func frontShift(lines uint32) uint32 { return uint32(32 - bits.TrailingZeros32(lines)) }

// hashEnd is hash_end of bpf/lib/addr.h.
func hashEnd(k lbServiceKey) uint32 {
	w := k.Vip.W
	h := w[3] ^ w[2]*0x85ebca6b ^ w[1]*0xc2b2ae35 ^ w[0]*0x27d4eb2f
	return (h ^ uint32(k.Port)*0x165667b1) * 0x9e3779b1
}

// isPlain tells whether the table is all that is to be known of a service.
func (s Service) isPlain(k ServiceKey) bool {
	rules := s
	rules.ID, rules.Base, rules.Len = 0, 0, 0
	return k.Port != 0 && k.Proto == protoTCP && s.Len > 0 && rules == Service{}
}

// protoTCP is IPPROTO_TCP.
const protoTCP = 6

// forget takes a service out, before it changes in fl_services.
func (f *fronts) forget(key ServiceKey) error {
	if key.Proto != protoTCP {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k := key.kernel()
	place, line, err := f.find(k)
	if err != nil {
		return err
	}
	for i := range line.Entry {
		if e := &line.Entry[i]; e.Vip.W != k.Vip.W || uint32(e.What) != frontUsed|uint32(k.Port) {
			continue
		}
		place.at = i
		if err := f.word(place, unsafe.Offsetof(line.Entry[0].What), 0); err != nil {
			return err
		}
		if len(f.rests) >= f.prune {
			maps.DeleteFunc(f.rests, func(_ frontPlace, since time.Time) bool { return time.Since(since) >= frontRest })
			f.prune = 2*len(f.rests) + 1024
		}
		f.rests[place] = time.Now()
	}
	return nil
}

// put enters a service that is plain, if there is a place for it.
func (f *fronts) put(key ServiceKey, s Service) error {
	if !s.isPlain(key) {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k := key.kernel()
	place, line, err := f.find(k)
	if err != nil {
		return err
	}
	for i := range line.Entry {
		place.at = i
		if line.Entry[i].What != 0 {
			continue
		}
		if since, rests := f.rests[place]; rests && time.Since(since) < frontRest {
			continue
		}
		if _, err := f.memory.WriteAt(bytesOf([]uint32{k.Vip.W[0], k.Vip.W[1], k.Vip.W[2], k.Vip.W[3]}), f.offset(place, unsafe.Offsetof(line.Entry[0].Vip))); err != nil {
			return fmt.Errorf("write the front of %s port %d: %w", key.VIP, key.Port, err)
		}
		if err := f.word(place, unsafe.Offsetof(line.Entry[0].Table), uint64(s.Base)|uint64(s.Len)<<32); err != nil {
			return err
		}
		return f.word(place, unsafe.Offsetof(line.Entry[0].What), uint64(s.ID)<<32|frontUsed|uint64(k.Port))
	}
	return nil
}

// find is the line of a key.
func (f *fronts) find(k lbServiceKey) (p frontPlace, line lbFrontLine, err error) {
	p.line = hashEnd(k) >> f.shift
	line, err = f.read(p.line)
	return p, line, err
}

func (f *fronts) offset(p frontPlace, field uintptr) int64 {
	return int64(p.line)*frontLineSize + int64(p.at)*int64(unsafe.Sizeof(lbFrontLine{}.Entry[0])) + int64(field)
}

func (f *fronts) read(line uint32) (l lbFrontLine, err error) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(&l)), frontLineSize)
	if _, err := f.memory.ReadAt(b, int64(line)*frontLineSize); err != nil {
		return l, fmt.Errorf("read front %d: %w", line, err)
	}
	return l, nil
}

// word writes 8 bytes at once.
func (f *fronts) word(p frontPlace, field uintptr, v uint64) error {
	if _, err := f.memory.WriteAt(bytesOf([]uint64{v}), f.offset(p, field)); err != nil {
		return fmt.Errorf("write front %d: %w", p.line, err)
	}
	return nil
}
