// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"io"
	"net"
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
	self, err := os.Executable()
	must(t, err)
	return fmt.Sprintf("    driver: process\n    command: [%q]\n    env: {%s: greet, DELAY: %s}\n    scale: %s\n", self, helperEnv, delay, scale)
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
