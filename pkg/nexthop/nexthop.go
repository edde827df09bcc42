// SPDX-License-Identifier: Apache-2.0

// Package nexthop answers where an address leads: the interface, the MAC
// addresses and what the way out can do. It follows the kernel's routes,
// neighbours and links by netlink. It changes none of them, but for addresses
// that are made local (Own).
package nexthop

import "net/netip"

// Hop is where packets for one address leave this node.
type Hop struct {
	Addr    netip.Addr
	IfIndex uint32 // 0: no route, Err says why
	IfName  string
	Gateway netip.Addr // invalid: on link
	MAC     [6]byte    // of the next hop; zero while the kernel has not resolved it
	SrcMAC  [6]byte    // of the interface
	Local   bool       // the address is this node's own
	Raw     bool       // the interface's frames have no Ethernet header: no program of ours reads them
	Peer    bool       // a veth whose peer lives in another namespace: bpf_redirect_peer reaches it
	XDPXmit bool       // the device takes frames from XDP_REDIRECT (the kernel's NETDEV_XDP_ACT_NDO_XMIT)
	Err     string
}

// Resolved tells whether the MAC of the next hop is known.
func (h Hop) Resolved() bool { return h.MAC != [6]byte{} }
