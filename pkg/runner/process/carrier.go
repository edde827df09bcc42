// SPDX-License-Identifier: Apache-2.0

package process

import (
	"time"

	"github.com/vishvananda/netlink"
)

const (
	// carrierTime is longer than the kernel takes to have a link work: it looks at
	// most once a second at those that are not urgent (net/core/link_watch.c).
	carrierTime = 2 * time.Second
	carrierLook = 200 * time.Microsecond
)

// awaitCarrier waits until a link that is up carries packets. The end of a veth
// that came up before the other one drops all it is given, and says nothing, until
// a worker of the kernel has seen the other end and given it its queue: on a busy
// machine later than a program binds its socket and its first datagram is sent on.
// The operational state (RFC 2863) tells. A link that does not get there in time is
// used as it is.
func awaitCarrier(h *netlink.Handle, link netlink.Link) error {
	pause := carrierLook
	for end := time.Now().Add(carrierTime); ; pause = min(2*pause, 25*carrierLook) {
		now, err := h.LinkByIndex(link.Attrs().Index)
		if err != nil {
			return err
		}
		if now.Attrs().OperState == netlink.OperUp || time.Now().After(end) {
			return nil
		}
		time.Sleep(pause)
	}
}
