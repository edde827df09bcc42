// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	portEnv  = "PORT"
	delayEnv = "BENCH_DELAY" // before it listens; up to a fifth more is added by chance
	viaEnv   = "BENCH_VIA"   // where an activator listens

	handedFD = 3
	pollTime = 10 * time.Millisecond
)

// play is the job of a process that this program started, or fairlead did.
func play(role string) error {
	switch role {
	case "work":
		return work()
	case "poll":
		return activate(pollUntilReady)
	case "handed":
		return activate(nil)
	case "still":
		return lookOut()
	}
	return fmt.Errorf("unknown role %q", role)
}

// clock is CLOCK_MONOTONIC in nanoseconds, which all processes share.
func clock() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// work is the program that sleeps. It takes a while to begin, listens, and
// tells everyone who sends a byte when it began, when it listened and when it
// had that byte.
func work() error {
	began := clock()
	delay, err := time.ParseDuration(os.Getenv(delayEnv))
	if err != nil {
		return err
	}
	time.Sleep(delay + time.Duration(rand.Int64N(int64(delay)/5+1)))
	port, err := strconv.Atoi(os.Getenv(portEnv))
	if err != nil {
		return err
	}
	var listened int64
	fd := handedFD
	if port == 0 {
		listened = clock() // as good as: it could accept now
	} else if fd, listened, err = listen(port); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "listener")
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if _, err := c.Read(make([]byte, 1)); err == nil { // who only looks whether it answers sends nothing
				fmt.Fprintf(c, "%d %d %d\n", began, listened, clock())
				_, _ = io.Copy(io.Discard, c)
			}
		}()
	}
}

// listen tells the moment before listen(2).
func listen(port int) (fd int, at int64, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, 0, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, 0, err
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return 0, 0, err
	}
	at = clock()
	return fd, at, unix.Listen(fd, 1024)
}

// activate is a small activator: it starts the program for a connection, and
// ends it when the connection is over. With ready nil the program is given the
// listening socket itself.
func activate(ready func(context.Context, string) (net.Conn, error)) error {
	l, err := net.Listen("tcp", os.Getenv(viaEnv))
	if err != nil {
		return err
	}
	fmt.Println("listening")
	at := netip.MustParseAddrPort(l.Addr().String())
	inside := netip.AddrPortFrom(at.Addr(), at.Port()+1)
	for {
		if ready == nil {
			err = hand(l.(*net.TCPListener))
		} else {
			err = lead(l, inside, ready)
		}
		if err != nil {
			return err
		}
	}
}

// program is the workload as a child.
func program(port uint16) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleEnv + "=work", delayEnv + "=" + os.Getenv(delayEnv), fmt.Sprintf("%s=%d", portEnv, port)}
	cmd.Stderr = os.Stderr
	return cmd
}

func lead(l net.Listener, to netip.AddrPort, ready func(context.Context, string) (net.Conn, error)) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	cmd := program(to.Port())
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	up, err := ready(ctx, to.String())
	if err != nil {
		return err
	}
	defer up.Close()
	go func() {
		_, _ = io.Copy(up, c)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, up)
	return nil
}

// pollUntilReady tries to connect again and again.
func pollUntilReady(ctx context.Context, to string) (net.Conn, error) {
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	for {
		if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", to); err == nil || ctx.Err() != nil {
			return c, err
		}
		<-tick.C
	}
}

// hand waits until somebody connects, without accepting, and gives the socket
// to the program until its first client has gone.
func hand(l *net.TCPListener) error {
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for n := 0; n == 0; {
		if n, err = unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return err
		}
	}
	cmd := program(0)
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println("started")
	// Whoever drives the run says when the client has gone.
	_, err = bufio.NewReaderSize(os.Stdin, 16).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return err
}
