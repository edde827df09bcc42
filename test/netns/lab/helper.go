// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// help runs one job of the test binary instead of the tests.
func help(job string) int {
	switch job {
	case "janitor":
		return janitor()
	case "ask":
		return ask()
	case "successor":
		return falseSuccessor()
	case "greet":
		return greet()
	case "warm":
		return warm()
	case "mirror":
		return mirror()
	}
	fmt.Fprintln(os.Stderr, "unknown helper", job)
	return 2
}

// Ask is one exchange that a process on the host has with a virtual IP, by
// bare system calls, so that nothing stands between the test and the kernel.
type Ask struct {
	Network   string         // "tcp" | "udp" | "udp-unconnected"
	Remote    netip.AddrPort //
	Mapped    bool           // an AF_INET6 socket and ::ffff:a.b.c.d
	LocalAddr netip.Addr     // bind before; zero: no bind
}

// Told is what came of an Ask.
type Told struct {
	Errno  int            // of the call that failed; 0: none did
	Call   string         // which one
	Answer string         // the replica's
	Peer   netip.AddrPort // getpeername; for unconnected UDP recvfrom's source
}

// Err is nil if no call failed.
func (r Told) Err() error {
	if r.Errno == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", r.Call, syscall.Errno(r.Errno))
}

// Host has a process in the node's namespace and the agent's cgroup do the
// asks one after the other.
func (a *Agent) Host(t testing.TB, asks ...Ask) []Told {
	t.Helper()
	in, err := json.Marshal(asks)
	must(t, err)
	self, err := os.Executable()
	must(t, err)
	cmd := a.HostCommand(t, self)
	cmd.Env = append(os.Environ(), helperEnv+"=ask")
	cmd.Stdin = strings.NewReader(string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	var told []Told
	must(t, json.Unmarshal(out, &told))
	return told
}

// HostCommand is a command that will run in the agent's namespace and in its
// cgroup: a client on the host itself.
func (a *Agent) HostCommand(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	// A cgroup beside those that the agent makes for its workloads.
	dir := filepath.Join(a.Cgroup, "clients")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { fd.Close() })
	cmd := a.ns.Command(t.Context(), name, args...)
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(fd.Fd())
	return cmd
}

func ask() int {
	var asks []Ask
	if err := json.NewDecoder(os.Stdin).Decode(&asks); err != nil {
		fmt.Fprintln(os.Stderr, "read asks:", err)
		return 2
	}
	told := make([]Told, len(asks))
	for i, a := range asks {
		told[i] = a.do()
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		return 1
	}
	return 0
}

func (a Ask) do() Told {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if a.Remote.Addr().Is6() || a.Mapped {
		family = unix.AF_INET6
	}
	if a.Network != "tcp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("socket", err)
	}
	defer unix.Close(fd)
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &unix.Timeval{Sec: 3}); err != nil {
			return failed("setsockopt", err)
		}
	}
	if a.LocalAddr.IsValid() {
		if err := unix.Bind(fd, a.sockaddr(netip.AddrPortFrom(a.LocalAddr, 0))); err != nil {
			return failed("bind", err)
		}
	}
	if a.Network == "udp-unconnected" {
		return a.unconnected(fd)
	}
	return a.connected(fd)
}

func (a Ask) connected(fd int) Told {
	if err := connect(fd, a.sockaddr(a.Remote)); err != nil {
		return failed("connect", err)
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return failed("getpeername", err)
	}
	if a.Network == "udp" {
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
			return failed("write", err)
		}
	}
	buf := make([]byte, 2048)
	n, _, err := receive(fd, buf)
	if err != nil {
		return failed("read", err)
	}
	return Told{Answer: string(buf[:n]), Peer: addrPort(peer)}
}

func (a Ask) unconnected(fd int) Told {
	if err := unix.Sendto(fd, []byte("hello"), 0, a.sockaddr(a.Remote)); err != nil {
		return failed("sendto", err)
	}
	buf := make([]byte, 2048)
	n, from, err := receive(fd, buf)
	if err != nil {
		return failed("recvfrom", err)
	}
	return Told{Answer: string(buf[:n]), Peer: addrPort(from)}
}

// receive begins again where a signal of Go's scheduler ends the call: with a
// timeout on the socket the kernel does not (signal(7), SA_RESTART).
func receive(fd int, buf []byte) (int, unix.Sockaddr, error) {
	for {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if !errors.Is(err, unix.EINTR) {
			return n, from, err
		}
	}
}

// connect waits for the handshake's end itself where a signal interrupts the
// call, which goes on without it (connect(2), EINTR).
func connect(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	for begun := time.Now(); errors.Is(err, unix.EINTR) && time.Since(begun) < 3*time.Second; {
		if _, perr := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 100); perr != nil && !errors.Is(perr, unix.EINTR) {
			return perr
		}
		switch errno, gerr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); {
		case gerr != nil:
			return gerr
		case errno != 0:
			return syscall.Errno(errno)
		}
		if _, gerr := unix.Getpeername(fd); gerr == nil {
			return nil
		}
	}
	return err
}

func (a Ask) sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is6() || a.Mapped {
		return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func failed(call string, err error) Told {
	errno, _ := err.(syscall.Errno)
	return Told{Errno: int(errno), Call: call}
}
