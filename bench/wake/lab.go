// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/fairlead-lb/fairlead/bench/space"
)

// node is the k-th node: everything between the client and the programs that
// sleep. Its subject has the addresses 198.18.k.0 and up.
//
//	client n1 100.64.1.2 ── up0 100.64.1.1 node-1
type node struct {
	*space.Space
	k int
}

// join puts node k beside the client.
func join(client *space.Space, k int) (*node, error) {
	s, err := space.New(fmt.Sprintf("node-%d", k))
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("n%d", k)
	return &node{s, k}, errors.Join(
		s.IP(
			fmt.Sprintf("link add up0 type veth peer name %s netns client", name),
			fmt.Sprintf("addr add 100.64.%d.1/24 dev up0", k), "link set up0 up",
		),
		client.IP(
			fmt.Sprintf("addr add 100.64.%d.2/24 dev %s", k, name), "link set "+name+" up",
			fmt.Sprintf("route add 198.18.%d.0/21 via 100.64.%d.1", k*8, k),
		),
	)
}

// address is the i-th of the node's, of 2 000.
func (n *node) address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(n.k*8 + i/250), byte(i%250 + 1)})
}

// told is what became of one connection: moments of CLOCK_MONOTONIC in
// nanoseconds.
type told struct {
	connected int64 // the client began to connect
	began     int64 // the program began
	listened  int64 // it was about to listen
	forwarded int64 // it had the client's first byte
	answered  int64 // the client had its answer
}

const patience = 90 * time.Second

// visit connects from a namespace, sends a byte and reads what the program
// tells.
func visit(from *space.Space, to netip.AddrPort) (told, error) {
	t := told{connected: clock()}
	var c net.Conn
	err := from.Inside(func() (err error) {
		c, err = net.DialTimeout("tcp", to.String(), patience)
		return err
	})
	if err != nil {
		return t, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return t, err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return t, err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return t, fmt.Errorf("read the answer of %s: %w", to, err)
	}
	t.answered = clock()
	if _, err := fmt.Sscan(line, &t.began, &t.listened, &t.forwarded); err != nil {
		return t, fmt.Errorf("answer of %s: %w: %q", to, err, line)
	}
	return t, nil
}
