// SPDX-License-Identifier: Apache-2.0

package process

import (
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel finishes by workers of its own what is asked of it about a link: on a
// busy machine later than a program binds its socket and gets its first datagram.

const (
	// readyTime is longer than it takes: the kernel looks at least once a second at
	// links (net/core/link_watch.c).
	readyTime = 2 * time.Second
	readyLook = 200 * time.Microsecond
)

// soon asks again and again until it is so, or a time is over that is long enough:
// then it goes on as it is.
func soon(is func() (bool, error)) error {
	pause := readyLook
	for end := time.Now().Add(readyTime); ; pause = min(2*pause, 25*readyLook) {
		ready, err := is()
		if ready || err != nil || time.Now().After(end) {
			return err
		}
		time.Sleep(pause)
	}
}

// awaitCarrier waits until a link that is up carries packets. The end of a veth
// that came up before the other one drops all it is given, and says nothing, until
// it has its queue. The operational state (RFC 2863) tells.
func awaitCarrier(h *netlink.Handle, link netlink.Link) error {
	return soon(func() (bool, error) {
		now, err := h.LinkByIndex(link.Attrs().Index)
		return err == nil && now.Attrs().OperState == netlink.OperUp, err
	})
}

// awaitLocal waits until the thread's namespace takes packets to addresses that it
// was given: those of IPv6 have no local route before (addrconf_dad_completed in
// net/ipv6/addrconf.c).
func awaitLocal(h *netlink.Handle, addrs []netip.Addr) error {
	for _, a := range addrs {
		err := soon(func() (bool, error) {
			routes, err := h.RouteGet(a.AsSlice())
			return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL, nil // without any route it is an error
		})
		if err != nil {
			return err
		}
	}
	return nil
}
