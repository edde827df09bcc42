// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
)

// EachFlow calls yield for every flow entry, both directions, until it returns
// false. Flows that come or go meanwhile may be missed or seen twice.
func (o *Objects) EachFlow(yield func(k FlowKey, f Flow, confirmed bool) bool) error {
	more := true
	// Embryos first: one that is confirmed meanwhile is seen twice, not never.
	err := o.EachEmbryo(func(k FlowKey, f Flow) bool {
		more = yield(k, f, false)
		return more
	})
	if err != nil || !more {
		return err
	}
	return eachFlow(o.maps[lbMapFlFlows], func(k FlowKey, f Flow) bool { return yield(k, f, true) })
}

func eachFlow(m *ebpf.Map, yield func(FlowKey, Flow) bool) error {
	err := each(m, func(k *lbFlowKey, f *lbFlow) bool { return yield(flowKeyOf(k), flowOf(f)) })
	if err != nil {
		return fmt.Errorf("read flows: %w", err)
	}
	return nil
}

// PutFlow writes one entry among the confirmed or the unconfirmed ones.
func (o *Objects) PutFlow(k FlowKey, f Flow, confirmed bool) error {
	name := lbMapFlFlows
	if !confirmed {
		name = lbMapFlEmbryos
		if err := o.useEmbryos(); err != nil {
			return err
		}
	}
	if err := o.maps[name].Put(k.kernel(), f.kernel()); err != nil {
		return fmt.Errorf("write flow: %w", err)
	}
	if !confirmed {
		return nil
	}
	return o.forgetRecent()
}

// DeleteFlow removes an entry from wherever it is, if it is still the one that
// was seen: another connection may have begun on its tuple. deleted tells. That
// in fl_handshakes ends by itself (HANDSHAKE_LIFE, DATAGRAM_LIFE) and holds no port.
func (o *Objects) DeleteFlow(k FlowKey, seen Flow) (deleted bool, err error) {
	key := k.kernel()
	for _, name := range []string{lbMapFlFlows, lbMapFlEmbryos} {
		var now lbFlow
		err := o.maps[name].Lookup(key, &now)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return deleted, fmt.Errorf("read flow: %w", err)
		}
		if now.Backend != seen.Backend || now.Isn != seen.ISN || now.Seen != seen.Seen {
			continue
		}
		if err := o.maps[name].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return deleted, fmt.Errorf("delete flow: %w", err)
		}
		deleted = true
		// Of a flow that is not confirmed, or that ends, nothing is remembered.
		if name == lbMapFlEmbryos || now.State&(FlowFinClient|FlowFinBackend|FlowRST) != 0 {
			continue
		}
		if err := o.forgetRecent(); err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

// Clock reads the kernel's jiffies and monotonic clock at one moment.
func (o *Objects) Clock() (jiffies uint64, monotonic time.Duration, err error) {
	if _, err := o.progs[lbProgFlReadClock].Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
		return 0, 0, fmt.Errorf("read clock: %w", err)
	}
	var c lbClock
	if err := o.maps[lbMapFlClock].Lookup(uint32(0), &c); err != nil {
		return 0, 0, fmt.Errorf("read clock: %w", err)
	}
	return c.Jiffies, time.Duration(c.Ktime), nil
}
