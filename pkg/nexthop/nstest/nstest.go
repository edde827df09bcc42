// SPDX-License-Identifier: Apache-2.0

// Package nstest gives tests a network of their own: the whole test binary
// runs again in a new network and mount namespace, and each test may make
// further namespaces. All of it is gone when the process ends, however it
// ends. Only tests import it.
package nstest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const inside = "FAIRLEAD_NSTEST"

// Main runs the tests by run in new network and mount namespaces. It does not
// return in the outer process. A test that needs root must not be skipped
// silently, so without root it fails.
func Main(run func()) {
	if os.Getenv(inside) != "" {
		if err := loopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, "nstest: set loopback up:", err)
			os.Exit(1)
		}
		run()
		return
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces and load BPF programs: run them as root (sudo make test)")
		os.Exit(1)
	}
	// An interrupt goes to the whole foreground group; the child reports it.
	signal.Ignore(os.Interrupt)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	runtime.LockOSThread() // the child is killed when the thread that made it ends
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:    unix.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "nstest:", err)
	os.Exit(1)
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// NS is another network namespace; its embedded Handle works inside it.
type NS struct {
	*netlink.Handle
	fd netns.NsHandle
}

// New makes a namespace that ends with the test.
func New(t testing.TB) *NS {
	t.Helper()
	n := &NS{}
	err := onThread(func() (err error) {
		if n.fd, err = netns.New(); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		n.Handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		n.Close()
		_ = n.fd.Close()
	})
	return n
}

// Do runs fn on a thread in the namespace. Sockets that fn opens stay there.
func (n *NS) Do(t testing.TB, fn func() error) {
	t.Helper()
	err := onThread(func() error {
		if err := netns.Set(n.fd); err != nil {
			return err
		}
		return fn()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onThread runs fn on a thread of its own, which is back in the process's
// namespace afterwards.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = home.Close() }()
		err = fn()
		// A thread that cannot go home stays locked and ends with the goroutine.
		if back := netns.Set(home); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Veth makes a pair: name here with the address here, peer in the namespace
// with the address there ("10.0.0.1/24"), both up. It returns the near end.
func (n *NS) Veth(t testing.TB, name string, here []string, peer string, there []string) netlink.Link {
	t.Helper()
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: 1000},
		PeerName:  peer, PeerNamespace: netlink.NsFd(n.fd),
	}
	check(t, "add veth "+name, netlink.LinkAdd(pair))
	far, err := n.LinkByName(peer)
	check(t, "find "+peer, err)
	for _, a := range there {
		check(t, "add address "+a, n.AddrAdd(far, addr(t, a)))
	}
	check(t, "set up "+peer, n.LinkSetUp(far))
	near, err := netlink.LinkByName(name)
	check(t, "find "+name, err)
	for _, a := range here {
		check(t, "add address "+a, netlink.AddrAdd(near, addr(t, a)))
	}
	check(t, "set up "+name, netlink.LinkSetUp(near))
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(l)
		}
	})
	// The kernel learns of a carrier a little later; until then it drops frames.
	Until(t, name+" and "+peer+" have a carrier", func() bool {
		l, err := netlink.LinkByName(name)
		f, ferr := n.LinkByName(peer)
		return err == nil && ferr == nil &&
			l.Attrs().OperState == netlink.OperUp && f.Attrs().OperState == netlink.OperUp
	})
	near, err = netlink.LinkByName(name)
	check(t, "find "+name, err)
	return near
}

// Send sends count datagrams from inside the namespace.
func (n *NS) Send(t testing.TB, to string, count int) {
	t.Helper()
	dst := netip.MustParseAddrPort(to)
	n.Do(t, func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		for range count {
			// An ICMP error of the packet before shows here; the packet goes out all the same.
			if _, err := c.Write([]byte("x")); errors.Is(err, syscall.ECONNREFUSED) {
				_, err = c.Write([]byte("x"))
				if err != nil {
					return err
				}
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

// Until polls for up to 10 s.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func addr(t testing.TB, s string) *netlink.Addr {
	t.Helper()
	a, err := netlink.ParseAddr(s)
	check(t, "parse address "+s, err)
	a.Flags = unix.IFA_F_NODAD // an IPv6 address is of use at once
	return a
}

func check(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
