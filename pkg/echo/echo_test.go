// SPDX-License-Identifier: Apache-2.0

package echo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run starts an echo of everything and returns its addresses: http, tcp, udp.
func run(t *testing.T) (addrs []string) {
	t.Helper()
	out, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	local := []string{"127.0.0.1:0"}
	go func() { done <- Run(ctx, Config{HTTP: local, TCP: local, UDP: local, Name: "one", Out: w}) }()
	for s := bufio.NewScanner(out); len(addrs) < 3 && s.Scan(); {
		addrs = append(addrs, s.Text()[strings.LastIndexByte(s.Text(), ' ')+1:])
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return addrs
}

func get(t *testing.T, url, accept string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHTTP(t *testing.T) {
	addr := run(t)[0]
	text := get(t, "http://"+addr+"/x?y=1", "text/plain")
	for _, want := range []string{"name:     one\n", "local:    " + addr + "\n", "GET /x?y=1 HTTP/1.1\nHost: " + addr + "\n", "Accept: text/plain\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
	var a Answer
	if err := json.Unmarshal([]byte(get(t, "http://"+addr+"/", "application/json")), &a); err != nil || a.Name != "one" || a.Local != addr {
		t.Errorf("answer %+v, %v", a, err)
	}
	if got := get(t, "http://"+addr+"/healthz", ""); got != "ok\n" {
		t.Errorf("healthz %q", got)
	}
}

func TestTCPHalfClose(t *testing.T) {
	addr := run(t)[1]
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes back, %v", len(got), len(sent), err)
	}
	idle, err := net.Dial("tcp", addr) // is closed at the end
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = idle.Close() })
	if _, err := fmt.Fprint(idle, "x"); err != nil {
		t.Fatal(err)
	}
}

func TestUDP(t *testing.T) {
	conn, err := net.Dial("udp", run(t)[2])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 100)
	for _, text := range []string{"one", "", "two"} {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != text {
			t.Errorf("got %q, %v; want %q", buf[:n], err, text)
		}
	}
}

func TestListenErrors(t *testing.T) {
	addr := run(t)[0]
	for _, cfg := range []Config{{}, {TCP: []string{"127.0.0.1:0"}, HTTP: []string{addr}}, {TCP: []string{addr}}, {UDP: []string{"nowhere"}}} {
		if err := Run(t.Context(), cfg); err == nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
}
