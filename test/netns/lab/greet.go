// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"
)

// Greeting is what a Greeter says before it is asked.
const Greeting = "220 at your service\n"

// Greeter is the lines of a workload whose server speaks first, then sends
// back what it gets, and ends when the client has ended. It listens on $PORT
// after the delay.
func Greeter(t testing.TB, delay time.Duration, scale string) string {
	t.Helper()
	return helperWorkload(t, "greet", delay, scale)
}

// Warming is the lines of a workload that listens at once, and answers every
// request of HTTP with 503 until the delay is over, and then with "warm".
func Warming(t testing.TB, delay time.Duration, scale string) string {
	t.Helper()
	return helperWorkload(t, "warm", delay, scale)
}

// Mirror is the lines of a workload that answers every datagram with its sender's
// address, a space and what it said. It binds $PORT after the delay.
func Mirror(t testing.TB, delay time.Duration, scale string) string {
	t.Helper()
	return helperWorkload(t, "mirror", delay, scale)
}

func helperWorkload(t testing.TB, job string, delay time.Duration, scale string) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	return fmt.Sprintf("    driver: process\n    command: [%q]\n    env: {%s: %s, DELAY: %s}\n    scale: %s\n", self, helperEnv, job, delay, scale)
}

func warm() int {
	delay, err := time.ParseDuration(os.Getenv("DELAY"))
	begun := time.Now()
	if err == nil {
		err = http.ListenAndServe(":"+os.Getenv("PORT"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if time.Since(begun) < delay {
				http.Error(w, "cold", http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "warm")
		}))
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func greet() int {
	delay, err := time.ParseDuration(os.Getenv("DELAY"))
	if err == nil {
		time.Sleep(delay) // a program that takes long to start
	}
	l, err := net.Listen("tcp", ":"+os.Getenv("PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	begun := time.Now()
	var first sync.Once
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go func() {
			defer c.Close()
			if _, err := io.WriteString(c, Greeting); err != nil {
				return
			}
			b := make([]byte, 64)
			n, err := c.Read(b)
			if err != nil {
				return
			}
			first.Do(func() { fmt.Printf("first byte after %d us\n", time.Since(begun).Microseconds()) })
			if _, err := c.Write(b[:n]); err == nil {
				_, _ = io.Copy(c, c)
			}
		}()
	}
}

func mirror() int {
	delay, err := time.ParseDuration(os.Getenv("DELAY"))
	if err == nil {
		time.Sleep(delay) // a program that takes long to start
	}
	c, err := net.ListenPacket("udp", ":"+os.Getenv("PORT"))
	b := make([]byte, 64<<10)
	for err == nil {
		var n int
		var from net.Addr
		if n, from, err = c.ReadFrom(b); err == nil {
			_, err = c.WriteTo(fmt.Appendf(nil, "%s %s", from, b[:n]), from)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
