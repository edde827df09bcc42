// SPDX-License-Identifier: Apache-2.0

// Package packet_test drives the packet programs with single frames through
// BPF_PROG_TEST_RUN and checks the verdict, every byte that comes out and every
// counter that moves. It needs root; it runs in a network namespace of its own,
// so that routes and neighbours are what the tests say.
package packet_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

const childEnv = "FAIRLEAD_PACKET_TEST_NS"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			fmt.Fprintln(os.Stderr, "test/packet loads BPF programs: run it as root")
			os.Exit(1)
		}
		fmt.Fprintln(os.Stderr, "test/packet skipped: it loads BPF programs and needs root")
		os.Exit(0)
	}
	if os.Getenv(childEnv) == "" {
		os.Exit(inNamespace())
	}
	if err := topology(); err != nil {
		fmt.Fprintln(os.Stderr, "set up namespace:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// inNamespace runs this test binary again in a fresh network namespace.
func inNamespace() int {
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), childEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run in a namespace:", err)
		return 1
	}
	return 0
}

// wireMTU is above what tests send that are not about it.
const wireMTU = 9000

// The node has one wire, wire0. Clients are behind a router on it; backends
// are on it too, so that nothing but the programs decides.
var (
	wireIndex uint32
	nodeMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	routerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
	backMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 3}
)

func topology() error {
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "wire0", HardwareAddr: nodeMAC, MTU: wireMTU},
		PeerName:  "wire1",
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	for _, name := range []string{"lo", "wire0", "wire1"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		if name == "wire0" {
			wireIndex = uint32(l.Attrs().Index)
		}
	}
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0o644); err != nil {
			return err
		}
	}
	for _, r := range []struct{ addr, router, route string }{
		{"192.0.2.1/24", "192.0.2.2", "0.0.0.0/0"},
		{"2001:db8::1/64", "2001:db8::2", "::/0"},
	} {
		addr, err := netlink.ParseAddr(r.addr)
		if err != nil {
			return err
		}
		addr.Flags = syscall.IFA_F_NODAD
		link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: int(wireIndex)}}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
		router := net.ParseIP(r.router)
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: int(wireIndex), State: netlink.NUD_PERMANENT, IP: router, HardwareAddr: routerMAC,
		}); err != nil {
			return err
		}
		_, dst, _ := net.ParseCIDR(r.route)
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: int(wireIndex), Dst: dst, Gw: router}); err != nil {
			return err
		}
	}
	return nil
}
