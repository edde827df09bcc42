// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// subscription is a netlink socket that listens to multicast groups.
type subscription struct {
	family int // unix.NETLINK_*
	groups []uint32
	buffer int // bytes of messages the kernel keeps; default 4 MiB
}

// LinkEvents and RouteEvents are the groups Watch takes for changes of
// interfaces, and of routes and what decides about them.
var (
	LinkEvents  = []uint32{unix.RTNLGRP_LINK}
	RouteEvents = []uint32{
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_NEXTHOP,
	}
	neighEvents = []uint32{unix.RTNLGRP_NEIGH}
)

// Watch calls event with every message of the route netlink groups until ctx
// ends, and with nil whenever messages may have been missed: at the start and
// after the socket overflowed. It returns nil when ctx ends.
func Watch(ctx context.Context, log *slog.Logger, groups []uint32, event func(*mdnetlink.Message)) error {
	return watch(ctx, log, subscription{family: unix.NETLINK_ROUTE, groups: groups}, event)
}

func watch(ctx context.Context, log *slog.Logger, sub subscription, event func(*mdnetlink.Message)) error {
	for ctx.Err() == nil {
		conn, err := sub.open()
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		event(nil)
		err = receive(conn, event)
		stop()
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil
		}
		// ENOBUFS is the kernel's word for messages it had no room for.
		if !errors.Is(err, unix.ENOBUFS) {
			log.Warn("netlink subscription broke, subscribing again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

func (s subscription) open() (*mdnetlink.Conn, error) {
	conn, err := mdnetlink.Dial(s.family, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	buffer := s.buffer
	if buffer == 0 {
		buffer = 4 << 20
	}
	// Room for a burst; without the privilege the kernel's default stays.
	_ = conn.SetReadBuffer(buffer)
	for _, g := range s.groups {
		err := conn.JoinGroup(g)
		// Nexthop objects came with Linux 5.3; an older kernel lacks the group.
		if err != nil && (g != unix.RTNLGRP_NEXTHOP || s.family != unix.NETLINK_ROUTE) {
			_ = conn.Close()
			return nil, fmt.Errorf("join netlink group %d: %w", g, err)
		}
	}
	return conn, nil
}

func receive(conn *mdnetlink.Conn, event func(*mdnetlink.Message)) error {
	for {
		msgs, err := conn.Receive()
		if err != nil {
			return err
		}
		for i := range msgs {
			event(&msgs[i])
		}
	}
}
