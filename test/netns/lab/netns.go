// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/test/feature"
)

// Netns is a network namespace of the lab.
type Netns struct {
	Name string
	path string
}

func newNetns(t testing.TB, name string) *Netns {
	t.Helper()
	command(t, "ip", "netns", "add", name)
	n := &Netns{Name: name, path: filepath.Join("/run/netns", name)}
	t.Cleanup(func() { removeNetns(n.Name) })
	// Routes and addresses are there at once, and nothing is forwarded.
	for key, v := range map[string]string{
		"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/default/accept_dad": "0",
		"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0",
		"net/ipv4/ping_group_range": "0 2147483647",
	} {
		n.Sysctl(t, key, v)
	}
	n.ip(t, "link set lo up")
	return n
}

// Bare makes a namespace with nothing but lo in it.
func Bare(t testing.TB) *Netns {
	t.Helper()
	return newNetns(t, fmt.Sprintf("%s-%d-bare", Prefix(), serial()))
}

// NetnsOf is the namespace a process lives in.
func NetnsOf(pid int) *Netns {
	return &Netns{Name: fmt.Sprintf("pid-%d", pid), path: fmt.Sprintf("/proc/%d/ns/net", pid)}
}

// Veth joins two namespaces with a pair of interfaces.
func (n *Netns) Veth(t testing.TB, name string, peer *Netns, peerName string) {
	t.Helper()
	n.ip(t, fmt.Sprintf("link add %s type veth peer name %s netns %s", name, peerName, peer.Name), "link set "+name+" up")
	peer.ip(t, "link set "+peerName+" up")
}

// ip runs lines of ip commands in the namespace.
func (n *Netns) ip(t testing.TB, lines ...string) {
	t.Helper()
	cmd := exec.Command("ip", "-n", n.Name, "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip in %s: %v\n%s\n%s", n.Name, err, strings.Join(lines, "\n"), out)
	}
}

// Do runs f on a thread inside the namespace. Sockets that f opens stay there.
func (n *Netns) Do(f func() error) error {
	result := make(chan error, 1)
	go func() { result <- n.inside(f) }()
	return <-result
}

func (n *Netns) inside(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open(n.path)
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.Name, err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.Name, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return fmt.Errorf("leave namespace %s: %w", n.Name, back) // the thread stays locked and ends
	}
	runtime.UnlockOSThread()
	return err
}

// Sysctl writes below /proc/sys, as the namespace sees it.
func (n *Netns) Sysctl(t testing.TB, key, value string) {
	t.Helper()
	err := n.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", key), []byte(value), 0) })
	if err != nil {
		t.Fatalf("set %s in %s: %v", key, n.Name, err)
	}
}

// Command is a command that will run in the namespace; it dies with the test.
func (n *Netns) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// nsenter keeps /sys, which `ip netns exec` replaces.
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.path, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run runs a command in the namespace to its end and returns its output.
func (n *Netns) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := n.Try(name, args...)
	if err != nil {
		t.Fatalf("%s in %s: %v\n%s", name, n.Name, err, out)
	}
	return out
}

// Try is Run for commands that may fail. The output is stdout, then stderr.
func (n *Netns) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience(time.Minute))
	defer cancel()
	return output(n.Command(ctx, name, args...))
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return stdout.String() + stderr.String(), err
}

// Dial connects from the namespace. Dials from many goroutines run beside
// each other. local may be the zero value.
func (n *Netns) Dial(network string, local, remote netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: Patience(timeout), KeepAlive: -1}
	if local.IsValid() {
		d.Control = reuse
		d.LocalAddr = net.TCPAddrFromAddrPort(local)
		if strings.HasPrefix(network, "udp") {
			d.LocalAddr = net.UDPAddrFromAddrPort(local)
		}
	}
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = d.Dial(network, remote.String())
		return err
	})
	return c, err
}

// reuse lets one local port serve several connections to different peers.
func reuse(_, _ string, c syscall.RawConn) error {
	var err error
	ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	if ctl != nil {
		return ctl
	}
	return err
}

// passXDP attaches a program that passes everything.
func (n *Netns) passXDP(t testing.TB, dev string) {
	t.Helper()
	var flags uint32
	if feature.Has(t, feature.XDPFrags) {
		flags = unix.BPF_F_XDP_HAS_FRAGS // jumbo frames, too
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lab_pass", Type: ebpf.XDP, License: "Apache-2.0", Flags: flags,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	must(t, err)
	defer prog.Close()
	var l link.Link
	must(t, n.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err != nil {
			return err
		}
		l, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: i.Index, Flags: link.XDPDriverMode})
		return err
	}))
	t.Cleanup(func() { l.Close() })
}

// command runs a command outside every namespace, or fails the test.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := output(exec.Command(name, args...))
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}
