// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The lines of fl_handshakes (bpf/lib/lines.h).
const (
	handshakesPerLine = 4
	handshakeLife     = 1 << 15 // jiffies without a packet of the client; an older one is none
	datagramLife      = 1 << 17 // the same, of UDP
	handshakeBatch    = 256     // lines that one system call reads
)

// handshakeLines is the size of fl_handshakes for so many handshakes: a power
// of two, at least 1.
func handshakeLines(n uint32) uint32 {
	return 1 << bits.Len32(max(n/handshakesPerLine, 1)-1)
}

// useEmbryos has programs look into fl_embryos, for the next two minutes at least.
func (o *Objects) useEmbryos() error {
	now, _, err := o.Clock()
	if err != nil {
		return err
	}
	if _, err := o.embryos.WriteAt(binary.NativeEndian.AppendUint64(nil, now), 0); err != nil {
		return fmt.Errorf("write when embryos were used: %w", err)
	}
	return nil
}

// EachEmbryo calls yield for every entry of a flow that nobody has confirmed
// yet, both directions, until it returns false.
func (o *Objects) EachEmbryo(yield func(k FlowKey, f Flow) bool) error {
	more := true
	err := o.eachHandshake(func(k FlowKey, f Flow) bool {
		more = yield(k, f)
		return more
	})
	if err != nil || !more {
		return err
	}
	return eachFlow(o.maps[lbMapFlEmbryos], yield)
}

// eachHandshake is EachEmbryo for those in fl_handshakes.
func (o *Objects) eachHandshake(yield func(FlowKey, Flow) bool) error {
	now, _, err := o.Clock()
	if err != nil {
		return err
	}
	lines, index := make([]lbHandshakeLine, handshakeBatch), make([]uint32, handshakeBatch)
	locked := &ebpf.BatchOptions{ElemFlags: uint64(ebpf.LookupLock)}
	var cursor ebpf.MapBatchCursor
	for {
		n, err := o.maps[lbMapFlHandshakes].BatchLookup(&cursor, index, lines, locked)
		for i := range n {
			if !eachOfLine(&lines[i], uint32(now), yield) {
				return nil
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil // the end
		}
		if err != nil {
			return fmt.Errorf("read handshakes: %w", err)
		}
	}
}

func eachOfLine(l *lbHandshakeLine, now uint32, yield func(FlowKey, Flow) bool) (more bool) {
	for i := range l.Entry {
		life := uint32(handshakeLife)
		if l.Entry[i].Key.Proto == unix.IPPROTO_UDP {
			life = datagramLife
		}
		if l.Tag[i] == 0 || now-l.Since[i] > life {
			continue
		}
		k, f := flowKeyOf(&l.Entry[i].Key), flowOf(&l.Entry[i].Flow)
		if !yield(k, f) {
			return false
		}
		// One entry tells both directions.
		if f.Flags&FlowSingle == 0 && !yield(f.Twin(k.Proto), f.Turned(k)) {
			return false
		}
	}
	return true
}
