// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"errors"
	"fmt"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// XDPFeatures is what a driver can do with XDP (NETDEV_XDP_ACT_* of
// include/uapi/linux/netdev.h).
type XDPFeatures struct {
	Known    bool // false: the kernel (before 6.3) does not tell
	Basic    bool // native programs: PASS, DROP, TX, ABORTED
	Redirect bool // native programs may redirect away
	Xmit     bool // takes frames that others redirect to it (ndo_xdp_xmit)
}

// ErrNoLink says that the interface asked about is not there.
var ErrNoLink = errors.New("no such interface")

const (
	netdevCmdDevGet      = 1
	netdevAttrIfIndex    = 1
	netdevAttrXDP        = 3
	netdevActBasic       = 1 << 0
	netdevActRedirect    = 1 << 1
	netdevActNdoXmit     = 1 << 2
	genlCtrl             = 0x10
	genlCtrlCmdGetFamily = 3
	genlCtrlAttrID       = 1
	genlCtrlAttrName     = 2
	genlCtrlAttrGroups   = 7
	genlCtrlGroupName    = 1
	genlCtrlGroupID      = 2
)

// XDPFeatures are those of the driver of an interface. On a kernel that cannot
// tell, Known is false. Errors: ErrNoLink.
func (l *Links) XDPFeatures(ifindex uint32) (XDPFeatures, error) {
	if l.netdev.id == 0 {
		return XDPFeatures{}, nil
	}
	return l.drivers.features(ifindex, l.askFeatures)
}

func (l *Links) askFeatures(ifindex uint32) (XDPFeatures, error) {
	ae := mdnetlink.NewAttributeEncoder()
	ae.Uint32(netdevAttrIfIndex, ifindex)
	reply, err := genlExecute(l.generic, l.netdev.id, netdevCmdDevGet, ae)
	if errors.Is(err, unix.ENODEV) {
		return XDPFeatures{}, fmt.Errorf("ask for XDP features of interface %d: %w", ifindex, ErrNoLink)
	}
	if err != nil {
		return XDPFeatures{}, fmt.Errorf("ask for XDP features of interface %d: %w", ifindex, err)
	}
	f := XDPFeatures{Known: true}
	for reply.Next() {
		if reply.Type() == netdevAttrXDP {
			bits := reply.Uint64()
			f.Basic = bits&netdevActBasic != 0
			f.Redirect = bits&netdevActRedirect != 0
			f.Xmit = bits&netdevActNdoXmit != 0
		}
	}
	return f, reply.Err()
}

// XDPXmit tells whether XDP may redirect frames to a link. Where the kernel
// does not say, a veth does not: without NAPI at its peer frames vanish.
func (l *Links) XDPXmit(link Link) bool {
	f, err := l.XDPFeatures(link.Index)
	if err != nil {
		return false
	}
	if !f.Known {
		return link.Kind != "veth"
	}
	return f.Xmit
}

// genlFamily is a generic netlink family and its multicast groups.
type genlFamily struct {
	id     uint16
	groups map[string]uint32
}

func lookupFamily(c *mdnetlink.Conn, name string) (genlFamily, error) {
	ae := mdnetlink.NewAttributeEncoder()
	ae.String(genlCtrlAttrName, name)
	reply, err := genlExecute(c, genlCtrl, genlCtrlCmdGetFamily, ae)
	if err != nil {
		return genlFamily{}, err
	}
	f := genlFamily{groups: map[string]uint32{}}
	for reply.Next() {
		switch reply.Type() {
		case genlCtrlAttrID:
			f.id = reply.Uint16()
		case genlCtrlAttrGroups:
			reply.Nested(f.readGroups)
		}
	}
	return f, reply.Err()
}

func (f *genlFamily) readGroups(list *mdnetlink.AttributeDecoder) error {
	for list.Next() {
		list.Nested(func(group *mdnetlink.AttributeDecoder) error {
			var name string
			var id uint32
			for group.Next() {
				switch group.Type() {
				case genlCtrlGroupName:
					name = group.String()
				case genlCtrlGroupID:
					id = group.Uint32()
				}
			}
			f.groups[name] = id
			return nil
		})
	}
	return nil
}

// genlExecute sends one generic netlink request and returns the attributes of
// its single reply.
func genlExecute(c *mdnetlink.Conn, family uint16, cmd uint8, ae *mdnetlink.AttributeEncoder) (*mdnetlink.AttributeDecoder, error) {
	attrs, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	// No acknowledgement is asked for: the reply itself ends the exchange.
	msgs, err := c.Execute(mdnetlink.Message{
		Header: mdnetlink.Header{Type: mdnetlink.HeaderType(family), Flags: mdnetlink.Request},
		Data:   append([]byte{cmd, 1, 0, 0}, attrs...), // struct genlmsghdr
	})
	if err != nil {
		return nil, err
	}
	if len(msgs) != 1 || len(msgs[0].Data) < 4 {
		return nil, fmt.Errorf("generic netlink answered %d messages, want 1", len(msgs))
	}
	ad, err := mdnetlink.NewAttributeDecoder(msgs[0].Data[4:])
	if err != nil {
		return nil, err
	}
	ad.ByteOrder = binary.NativeEndian
	return ad, nil
}
