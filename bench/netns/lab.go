// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/fairlead-lb/fairlead/bench/space"
)

// Ports of the server, the same on every node.
const (
	requestPort  = 7000 // TCP
	datagramPort = 7001 // UDP
	iperfPort    = 5201 // TCP
)

// lab is the network: one client and one server, and between them as many
// nodes as there are subjects, so that nothing of one is in the way of another.
//
//	client n1 100.64.1.2 ── up0 node-1 rep0 10.1.1.1 ── n1 10.1.1.2 server
//	       n2 100.64.2.2 ── up0 node-2 rep0 10.1.2.1 ── n2 10.1.2.2
type lab struct {
	client, server *space.Space
	ask            io.WriteCloser // questions to the server process
	answers        *bufio.Reader
}

// node is the k-th way from the client to the server.
type node struct {
	*space.Space
	k int
}

func (n *node) vip() netip.Addr    { return netip.AddrFrom4([4]byte{198, 18, byte(n.k), 10}) }
func (n *node) addr() netip.Addr   { return netip.AddrFrom4([4]byte{100, 64, byte(n.k), 1}) }
func (n *node) server() netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n.k), 2}) }

func newLab() (*lab, error) {
	l := &lab{}
	var err error
	if l.client, err = space.New("client"); err != nil {
		return nil, err
	}
	if l.server, err = space.New("server"); err != nil {
		return nil, err
	}
	if err := l.serve(); err != nil {
		return nil, err
	}
	return l, nil
}

// serve starts the server of requests and datagrams.
func (l *lab) serve() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=server")
	var err error
	if l.ask, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	l.answers = bufio.NewReader(out)
	if err := l.server.Start(cmd); err != nil {
		return err
	}
	_, _, err = l.served() // it listens
	return err
}

// served asks the server how many datagrams it has counted, and how much CPU
// time it has used.
func (l *lab) served() (datagrams uint64, cpu time.Duration, err error) {
	if _, err := io.WriteString(l.ask, "served\n"); err != nil {
		return 0, 0, fmt.Errorf("ask the server: %w\n%s", err, l.server.Said())
	}
	line, err := l.answers.ReadString('\n')
	if err != nil {
		return 0, 0, fmt.Errorf("ask the server: %w\n%s", err, l.server.Said())
	}
	if _, err := fmt.Sscan(line, &datagrams, (*int64)(&cpu)); err != nil {
		return 0, 0, fmt.Errorf("ask the server: %w: %q", err, line)
	}
	return datagrams, cpu, nil
}

// join puts node k between the client and the server.
func (l *lab) join(k int) (*node, error) {
	s, err := space.New(fmt.Sprintf("node-%d", k))
	if err != nil {
		return nil, err
	}
	n := &node{Space: s, k: k}
	name := fmt.Sprintf("n%d", k)
	return n, errors.Join(
		s.IP(
			fmt.Sprintf("link add up0 type veth peer name %s netns client", name),
			fmt.Sprintf("link add rep0 type veth peer name %s netns server", name),
			fmt.Sprintf("addr add %s/24 dev up0", n.addr()), fmt.Sprintf("addr add 10.1.%d.1/24 dev rep0", k),
			"link set up0 up", "link set rep0 up",
		),
		l.client.IP(
			fmt.Sprintf("addr add 100.64.%d.2/24 dev %s", k, name), "link set "+name+" up",
			fmt.Sprintf("route add 198.18.%d.0/24 via %s", k, n.addr()), fmt.Sprintf("route add 10.1.%d.0/24 via %s", k, n.addr()),
		),
		l.server.IP(
			fmt.Sprintf("addr add %s/24 dev %s", n.server(), name), "link set "+name+" up",
			fmt.Sprintf("route add 100.64.%d.0/24 via 10.1.%d.1", k, k),
		),
	)
}
