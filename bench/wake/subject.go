// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fairlead-lb/fairlead/bench/space"
)

// delay is how long the program takes before it listens, at least.
const delay = 50 * time.Millisecond

// port that clients connect to, and that programs of fairlead listen on.
const (
	servicePort   = 80
	containerPort = 8080
)

// subject is one way of starting a program for a connection.
type subject struct {
	name  string // of the command line
	title string
	setUp func(*bench, *subject) error
	// after is called when the client has gone. Optional.
	after func() error

	node    *node
	turn    int
	samples []told
	awake   int // wakes that were none: the program ran already
}

const (
	fairleadTitle = "fairlead"
	pollTitle     = "polls every 10 ms"
	handedTitle   = "hands its socket over"
)

func subjects() []*subject {
	return []*subject{
		{name: "fairlead", title: fairleadTitle, setUp: setUpFairlead},
		{name: "poll", title: pollTitle, setUp: setUpPeer},
		{name: "handed", title: handedTitle, setUp: setUpPeer},
	}
}

// to is where the client connects next.
func (s *subject) to() netip.AddrPort {
	if s.name != "fairlead" {
		return netip.AddrPortFrom(s.node.address(0), servicePort)
	}
	return netip.AddrPortFrom(s.node.address(s.turn), servicePort)
}

// setUpFairlead has a service for every round: none goes back to sleep meanwhile.
func setUpFairlead(b *bench, s *subject) error {
	return b.agent(s.node, sleepers(s.node, b.cfg.rounds, "{min: 0, idle: 1h}"))
}

// sleepers are n services of a config that run this program once somebody
// connects.
func sleepers(at *node, n int, scale string) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "- {project: bench, user: s%d, run: {containerPort: %d, servicePort: %d}, vip: %s, workload: "+
			"{driver: process, command: [/proc/self/exe], env: {%s: work, %s: %s}, scale: %s}}\n",
			i, containerPort, servicePort, at.address(i), roleEnv, delayEnv, delay, scale)
	}
	return strings.ReplaceAll(out.String(), "/proc/self/exe", self())
}

// self is the file of this program.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return "/proc/self/exe"
	}
	return path
}

// agent runs fairlead on a node with the given services, and waits until all
// of it is in force.
func (b *bench) agent(at *node, services string) error {
	home := filepath.Join(space.Dir, at.Name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	config := "node: {interfaces: [up0], attach: tc, cgroup: \"\"}\nlisten: {http: \"\", https: \"\", postgres: \"\", mongo: \"\", redis: \"\", dashboard: \"\"}\n" +
		fmt.Sprintf("network: {services: 198.18.0.0/15, workloads: 100.%d.0.0/16}\nservices:\n", 70+at.k) + services
	file := filepath.Join(home, "fairlead.yaml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return err
	}
	cmd := exec.Command(b.bin, "run", "--config", file, "--state", filepath.Join(home, "state"), "--run", filepath.Join(home, "run"))
	if err := at.Start(cmd); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		out, err := at.Output(10*time.Second, "", nil, "curl", "-sf", "http://127.0.0.1:9320/readyz")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || cmd.Process.Signal(syscall.Signal(0)) != nil {
			return fmt.Errorf("fairlead is not ready within a minute: %s: %w\n%s", out, err, at.Said())
		}
	}
}

// setUpPeer runs a small activator of this program.
func setUpPeer(_ *bench, s *subject) error {
	at := s.to()
	if err := s.node.IP(fmt.Sprintf("addr add %s/32 dev lo", at.Addr())); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+s.name, viaEnv+"="+at.String(), delayEnv+"="+delay.String())
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.node.Start(cmd); err != nil {
		return err
	}
	if _, err := out.Read(make([]byte, 64)); err != nil { // it listens
		return fmt.Errorf("start %s: %w\n%s", s.title, err, s.node.Said())
	}
	s.after = func() error {
		_, err := io.WriteString(in, "gone\n")
		return err
	}
	return nil
}
