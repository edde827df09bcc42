// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// ErrDropped is why nothing comes of a frame.
var ErrDropped = errors.New("the data plane drops it; its counters say why")

// Verdicts of linux/pkt_cls.h.
const (
	tcShot     = 2
	tcRedirect = 7
)

// Parts of struct __sk_buff, linux/bpf.h.
const (
	skbSize    = 192
	skbIfIndex = 40
)

// replayRoom is how much longer a frame may come out than it went in.
const replayRoom = 256

// Replay runs the program of TC over one frame, with its Ethernet header, as if
// it had come in by the interface: with its entries of flows and its counters. It
// sends nothing: out is the frame as it would leave. held: it would be left to the
// kernel, as those to services that sleep are. The kernel takes a frame of some
// 3 500 bytes, less than a page.
func (o *Objects) Replay(frame []byte, ifindex uint32) (out []byte, held bool, err error) {
	ctx := make([]byte, skbSize)
	binary.NativeEndian.PutUint32(ctx[skbIfIndex:], ifindex)
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+replayRoom), Context: ctx}
	act, err := o.progs[lbProgFlTc].Run(opts)
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("replay a frame of %d bytes: %w", len(frame), err)
	case act == tcShot:
		return nil, false, ErrDropped
	case act != tcRedirect:
		return nil, true, nil
	}
	return opts.DataOut, false, nil
}
