// SPDX-License-Identifier: Apache-2.0

// Package haproxytest runs a real HAProxy for tests, in front of a server that
// is told of the clients by the PROXY protocol.
package haproxytest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Run starts HAProxy in TCP mode on loopback and tells where it listens. send
// is how it tells the server at to of its clients: "send-proxy",
// "send-proxy-v2". It ends with the test.
func Run(t testing.TB, to, send string) (address string) {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		t.Fatalf("this test needs HAProxy, which scripts/setup.sh test installs: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	_ = l.Close()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	config := fmt.Sprintf("defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\nlisten l\n bind %s\n server s %s %s\n", at, to, send)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-db", "-f", file)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("HAProxy said:\n%s", &said)
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
			return at
		}
		if time.Now().After(end) {
			t.Fatalf("HAProxy does not listen at %s: %v", at, err)
		}
	}
}
