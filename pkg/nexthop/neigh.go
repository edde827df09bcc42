// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// neighKey names a neighbour entry.
type neighKey struct {
	ifindex uint32
	addr    netip.Addr // unmapped, without a zone
}

// neighbour is what the kernel knows about one.
type neighbour struct {
	state uint16 // NUD_*
	mac   [6]byte
}

const (
	ndmsgLen = 12 // struct ndmsg: family, 3 pad, ifindex, state (16), flags (8), type (8)
	nudKnown = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE |
		unix.NUD_PERMANENT | unix.NUD_NOARP
)

// neighbours looks entries up; one that is not there, or that could not be
// looked up, stays the zero value.
func (l *Links) neighbours(of map[neighKey]neighbour) {
	keys := slices.Collect(maps.Keys(of))
	answered := make([]bool, len(keys))
	err := l.asker.ask(len(keys), func(i int) question {
		return question{kind: unix.RTM_GETNEIGH, data: ndmsg(keys[i], 0)}
	}, func(i int, is answer) {
		answered[i] = true
		if is.err != nil {
			return
		}
		if got, n, ok := parseNeigh(is.data); ok && got == keys[i] {
			of[got] = n
		}
	})
	if err == nil {
		return
	}
	for i, k := range keys {
		if answered[i] {
			continue
		}
		if n, err := l.neighbour(k); err == nil {
			of[k] = n
		}
	}
}

// neighbour looks up one entry; none is the zero value.
func (l *Links) neighbour(k neighKey) (neighbour, error) {
	msgs, err := l.raw.Execute(mdnetlink.Message{
		Header: mdnetlink.Header{Type: unix.RTM_GETNEIGH, Flags: mdnetlink.Request},
		Data:   ndmsg(k, 0),
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return neighbour{}, nil
	}
	if err != nil {
		return neighbour{}, fmt.Errorf("look up neighbour %s: %w", k.addr, err)
	}
	for _, m := range msgs {
		if got, n, ok := parseNeigh(m.Data); ok && got == k {
			return n, nil
		}
	}
	return neighbour{}, nil
}

// probe asks the kernel to find a neighbour out, as if it had a packet for it.
// An entry in PERMANENT state must not be asked for: NTF_USE ends its
// permanence (__neigh_update in net/core/neighbour.c).
func (l *Links) probe(k neighKey) error {
	_, err := l.raw.Execute(mdnetlink.Message{
		Header: mdnetlink.Header{
			Type:  unix.RTM_NEWNEIGH,
			Flags: mdnetlink.Request | mdnetlink.Acknowledge | mdnetlink.Create | mdnetlink.Replace,
		},
		Data: ndmsg(k, unix.NTF_USE),
	})
	if err != nil {
		return fmt.Errorf("ask for neighbour %s: %w", k.addr, err)
	}
	return nil
}

// ndmsg builds a struct ndmsg followed by NDA_DST.
func ndmsg(k neighKey, flags uint8) []byte {
	family, ip := uint8(unix.AF_INET), k.addr.AsSlice()
	if k.addr.Is6() {
		family = unix.AF_INET6
	}
	b := make([]byte, ndmsgLen, ndmsgLen+4+len(ip))
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:], k.ifindex)
	b[10] = flags
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(ip)))
	b = binary.NativeEndian.AppendUint16(b, unix.NDA_DST)
	return append(b, ip...)
}

// parseNeigh reads an RTM_NEWNEIGH or RTM_DELNEIGH message of an IP family.
func parseNeigh(b []byte) (neighKey, neighbour, bool) {
	if len(b) < ndmsgLen || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return neighKey{}, neighbour{}, false // AF_BRIDGE: forwarding entries
	}
	k := neighKey{ifindex: binary.NativeEndian.Uint32(b[4:])}
	n := neighbour{state: binary.NativeEndian.Uint16(b[8:])}
	ad, err := mdnetlink.NewAttributeDecoder(b[ndmsgLen:])
	if err != nil {
		return neighKey{}, neighbour{}, false
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NDA_DST:
			k.addr, _ = netip.AddrFromSlice(ad.Bytes())
		case unix.NDA_LLADDR:
			if mac := ad.Bytes(); len(mac) == len(n.mac) {
				copy(n.mac[:], mac)
			}
		}
	}
	return k, n, ad.Err() == nil && k.addr.IsValid()
}
