// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"sync"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// drivers remembers the XDP features of interfaces until the kernel announces that
// they may have changed, as mirror does. Safe for concurrent use.
type drivers struct {
	family uint16

	mu       sync.Mutex
	announce announcements // fd -1: nothing is announced, so nothing is remembered
	known    map[uint32]XDPFeatures
}

func openDrivers(netdev genlFamily) (*drivers, error) {
	d := &drivers{family: netdev.id, announce: announcements{fd: -1}, known: map[uint32]XDPFeatures{}}
	group := netdev.groups["mgmt"]
	if group == 0 {
		return d, nil
	}
	a, err := subscribe(subscription{family: unix.NETLINK_GENERIC, groups: []uint32{group}})
	if err != nil {
		return nil, err
	}
	d.announce = a
	return d, nil
}

func (d *drivers) close() {
	if d.announce.fd >= 0 {
		d.announce.close()
	}
}

// features are what is remembered of an interface, or what ask says now.
func (d *drivers) features(ifindex uint32, ask func(uint32) (XDPFeatures, error)) (XDPFeatures, error) {
	if d.announce.fd < 0 {
		return ask(ifindex)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.announce.read(d.note) {
		clear(d.known)
	}
	if f, ok := d.known[ifindex]; ok {
		return f, nil
	}
	f, err := ask(ifindex)
	if err == nil {
		d.known[ifindex] = f
	}
	return f, err
}

// note forgets the interface that a message is about. d.mu is held.
func (d *drivers) note(kind uint16, b []byte) {
	const genlmsghdrLen = 4
	if kind != d.family || len(b) < genlmsghdrLen {
		return
	}
	ad, err := mdnetlink.NewAttributeDecoder(b[genlmsghdrLen:])
	for err == nil && ad.Next() {
		if ad.Type() == netdevAttrIfIndex {
			delete(d.known, ad.Uint32())
			return
		}
	}
	clear(d.known)
}
