// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	mdnetlink "github.com/mdlayher/netlink"

	"github.com/fairlead-lb/fairlead/pkg/nexthop"
)

// settle is how long a burst of changes is collected.
const settle = 50 * time.Millisecond

// Watch calls changed when Apply has something to look at that is no matter of
// a next hop: an interface or a default route came, went or changed its
// programs. It is called once at the start. Watch returns nil when ctx ends.
func (t *Target) Watch(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() {
		groups := append(slices.Clone(nexthop.LinkEvents), nexthop.RouteEvents...)
		ended <- nexthop.Watch(ctx, t.cfg.Log, groups, func(*mdnetlink.Message) {
			select {
			case ready <- struct{}{}:
			default:
			}
		})
	}()
	last := "" // what changed before the subscription must not be missed either
	for {
		select {
		case err := <-ended:
			return err
		case <-ready:
		}
		select {
		case <-ctx.Done():
		case <-time.After(settle):
		}
		if now := t.fingerprint(); now != last {
			last = now
			changed()
		}
	}
}

// fingerprint is a text that changes when Apply's view of the host does.
func (t *Target) fingerprint() string {
	var b strings.Builder
	links, err := t.kernel.links.List()
	fmt.Fprintln(&b, err)
	for _, l := range links {
		fmt.Fprintln(&b, l.Index, l.Name, l.Kind, l.Peer, l.Raw, l.XDPProg, l.XDPMode)
	}
	defaults, err := t.kernel.links.Default()
	fmt.Fprintln(&b, defaults, err)
	return b.String()
}
