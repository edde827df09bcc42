// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/fairlead-lb/fairlead/bench/load"
)

// The client runs on the first CPU and the server on the second: where the
// path's work is done is then always the same.
const clientCPU, serverCPU = 0, 1

// order is what a client process is told to do.
type order struct {
	Kind string         `json:"kind"` // connect, keepalive, pingpong, udp
	To   netip.AddrPort `json:"to"`
	For  time.Duration  `json:"for"`
}

// play is the job of a process that this program started in a namespace.
func play(role string) error {
	switch role {
	case "server":
		return playServer()
	case "client":
		return playClient()
	}
	return fmt.Errorf("unknown role %q", role)
}

// playServer serves until its stdin ends.
func playServer() error {
	s, err := load.Listen(requestPort, datagramPort)
	if err != nil {
		return err
	}
	failed := make(chan error, 3)
	serve := func(f func() error) {
		if err := load.Pin(serverCPU); err != nil {
			failed <- err
			return
		}
		failed <- f()
	}
	go serve(s.ServeTCP)
	go serve(s.ServeUDP)
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			fmt.Println(s.Datagrams(), int64(load.CPU()))
		}
		failed <- in.Err()
	}()
	return <-failed
}

// playClient carries out the order on its stdin and prints the result.
func playClient() error {
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	if err := load.Pin(clientCPU); err != nil {
		return err
	}
	defer runtime.UnlockOSThread()
	var (
		r   load.Result
		err error
	)
	switch o.Kind {
	case "connect":
		r, err = load.Requests{To: o.To, Conns: 32, Close: true, For: o.For}.Run()
	case "keepalive":
		r, err = load.Requests{To: o.To, Conns: 32, For: o.For}.Run()
	case "pingpong":
		r, err = load.Requests{To: o.To, Conns: 1, Each: true, For: o.For}.Run()
	case "udp":
		r, err = load.Datagrams(o.To, 16, o.For)
	default:
		err = fmt.Errorf("unknown kind %q", o.Kind)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}
