// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/bench/load"
)

// Addresses and ports of the run: clients and replicas have their own, all on
// loopback.
const (
	clientIP    = "10.9.0.1"
	serverIP    = "10.9.0.2"
	requestPort = 7000
	bulkPort    = 7002
)

// The names in ClientHellos: which service is meant.
const (
	requestHost = "requests.example.test"
	bulkHost    = "bulk.example.test"
)

// order is what a client process is told to do.
type order struct {
	Kind string         `json:"kind"`
	To   netip.AddrPort `json:"to"`
	For  time.Duration  `json:"for"`
	N    int            `json:"n"`
}

// hello is a ClientHello of crypto/tls for a host, always of the same size.
func hello(host string) []byte {
	var out bytes.Buffer
	_ = tls.Client(sink{&out}, &tls.Config{ServerName: host, InsecureSkipVerify: true}).Handshake()
	return out.Bytes()
}

// sink keeps what is written, and ends at the first read.
type sink struct{ *bytes.Buffer }

func (sink) Read([]byte) (int, error)         { return 0, io.EOF }
func (sink) Close() error                     { return nil }
func (sink) LocalAddr() net.Addr              { return nil }
func (sink) RemoteAddr() net.Addr             { return nil }
func (sink) SetDeadline(time.Time) error      { return nil }
func (sink) SetReadDeadline(time.Time) error  { return nil }
func (sink) SetWriteDeadline(time.Time) error { return nil }

// play is the job of a process that this program started.
func play(role string) error {
	switch role {
	case "server":
		return playServer()
	case "client":
		return playClient()
	case "stranger":
		return playStranger()
	}
	return fmt.Errorf("unknown role %q", role)
}

// playServer serves until its stdin ends.
func playServer() error {
	s, err := load.Listen(requestPort, requestPort)
	if err != nil {
		return err
	}
	s.Prefix = len(hello(requestHost))
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", serverIP, bulkPort))
	if err != nil {
		return err
	}
	failed := make(chan error, 3)
	go func() { failed <- s.ServeTCP() }()
	go func() { failed <- load.ServeBulk(l) }()
	fmt.Println("ready")
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		failed <- err
	}()
	return <-failed
}

// occupy has somebody who is not root bind the name by which an agent keeps a
// second one away from its namespace: agents that find it so only say so.
func occupy() (io.Closer, error) {
	cmd := child("stranger")
	const nobody = 65534
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("let two agents run: %w", err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("let two agents run: %w", err)
	}
	return in, nil
}

// playStranger holds the name until its stdin ends.
func playStranger() error {
	l, err := net.Listen("unix", "@fairlead")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// playClient carries out the order on its stdin and prints the result.
func playClient() error {
	var o order
	in := json.NewDecoder(os.Stdin)
	if err := in.Decode(&o); err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	requests := load.Requests{To: o.To, Conns: o.N, For: o.For, Prefix: hello(requestHost), Each: true}
	var (
		r   load.Result
		err error
	)
	switch o.Kind {
	case "exchange":
		r, err = requests.Run()
	case "connect":
		requests.Close = true
		r, err = requests.Run()
	case "bulk":
		r, err = load.Bulk{To: o.To, Conns: o.N, For: o.For, Prefix: hello(bulkHost)}.Run()
	case "idle":
		return playIdle(o)
	default:
		err = fmt.Errorf("unknown kind %q", o.Kind)
	}
	if err != nil {
		return err
	}
	return say(r)
}

// playIdle opens connections, has each answer one request, says so and waits
// for the end of its stdin.
func playIdle(o order) error {
	begin := append(hello(requestHost), make([]byte, load.RequestSize)...)
	answer := make([]byte, load.AnswerSize)
	for i := range o.N {
		c, err := net.DialTimeout("tcp", o.To.String(), 10*time.Second)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write(begin); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
	}
	if err := say(load.Result{Done: uint64(o.N)}); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// child is a process of this program in a role.
func child(role string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	return cmd
}

// ask has a client process carry out an order.
func ask(o order) (load.Result, error) {
	var r load.Result
	text, err := json.Marshal(o)
	if err != nil {
		return r, err
	}
	cmd := child("client")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), &stderr
	limit := time.AfterFunc(o.For+20*time.Second, func() { _ = cmd.Process.Kill() })
	defer limit.Stop()
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("client, %s: %w\n%s", o.Kind, err, stderr.String())
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("read the client's result: %w: %q", err, out)
	}
	if r.Failed*100 > r.Done || r.Done == 0 {
		return r, errors.Join(fmt.Errorf("%s to %s: %d failed, %d were done", o.Kind, o.To, r.Failed, r.Done))
	}
	return r, nil
}
