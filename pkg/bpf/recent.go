// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The table of bpf/lib/recent.h: what packets of a flow became a moment ago.

const (
	recentsPerLine = uint32(unsafe.Sizeof(lbRecentLine{}) / unsafe.Sizeof(lbRecentLine{}.Entry[0]))
	vipSize        = int64(unsafe.Sizeof(lbVip{}))
)

// recentLines is the size of fl_recent, a power of two: places for twice the
// entries that flows may have, so that few lines have more than four to hold.
func recentLines(flows uint32) uint32 {
	return 1 << bits.Len32(max(2*flows/recentsPerLine, 1)-1)
}

// recentLife is how long an entry of fl_recent counts, at least 4 seconds, in
// units of 1 024 jiffies (RECENT_UNIT), of which one more may have begun: so long
// a flow's time may be behind.
func recentLife() uint32 {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil || tick.Nano() <= 0 {
		return 1
	}
	unit := 1024 * time.Duration(tick.Nano())
	return uint32((4*time.Second + unit - 1) / unit)
}

// forgetRecent voids what programs remember of flows. It comes after a change of
// a flow's entry: who read the entry before the change remembers it under the
// epoch that it read before that. Two at a time may raise it by one: the changes
// of both come before.
func (o *Objects) forgetRecent() error {
	var b [8]byte
	if _, err := o.epoch.ReadAt(b[:], 0); err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	binary.NativeEndian.PutUint64(b[:], binary.NativeEndian.Uint64(b[:])+1)
	if _, err := o.epoch.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("write epoch: %w", err)
	}
	return nil
}

// putVIP tells the address and port that a service's replies get. Of several, the
// last one: flows by the others are looked up.
func (o *Objects) putVIP(k ServiceKey, id uint32) error {
	v := []lbVip{{Port: swap16(k.Port)}}
	v[0].Addr.W = toAddr(k.VIP)
	at := 2 * int64(id)
	if k.VIP.Is6() {
		at++
	}
	if _, err := o.vips.WriteAt(bytesOf(v), at*vipSize); err != nil {
		return fmt.Errorf("write the address of service %d: %w", id, err)
	}
	return nil
}
