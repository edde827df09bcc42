// SPDX-License-Identifier: Apache-2.0

// With the race detector sync.Pool forgets on purpose.
//go:build !race

package ingress

import (
	"io"
	"net"
	"runtime"
	"testing"
)

const browserRequest = "GET /catalog/items/4711?sort=price HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/128.0.0.0 Safari/537.36\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\nAccept-Encoding: gzip, deflate, br\r\n" +
	"Accept-Language: en-GB,en;q=0.9\r\nCookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark\r\n\r\n"

// TestNoAllocationPerRequest: client and replica read and write fixed buffers,
// so that what is allocated is the front's.
func TestNoAllocationPerRequest(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nServer: x\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello")
	at := rawBackend(t, func(c net.Conn) {
		b := make([]byte, 4096)
		for {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
	f := newFixture(t, Config{}, on("a", "shop.example.com", "/", at))
	c, err := net.Dial("tcp", f.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request, in := []byte(browserRequest), make([]byte, len(answer)-len("Connection: keep-alive\r\n"))
	round := func(n int) {
		for range n {
			if _, err := c.Write(request); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, in); err != nil {
				t.Fatal(err)
			}
		}
	}
	round(200)
	const n = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	round(n)
	runtime.ReadMemStats(&after)
	// The clock's goroutine and the runtime allocate a little now and then.
	if per := float64(after.Mallocs-before.Mallocs) / n; per > 0.2 {
		t.Errorf("%.2f allocations per request, want none", per)
	}
}

// TestIdleConnectionsHoldNoBuffers: what an idle connection keeps is small.
func TestIdleConnectionsHoldNoBuffers(t *testing.T) {
	f := newFixture(t, Config{}, on("a", "shop.example.com", "/", backend(t, named("one"))))
	const n = 300
	request, in := []byte(browserRequest), make([]byte, 4096)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what pools hold goes with the second
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range n {
		c, err := net.Dial("tcp", f.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(in); err != nil {
			t.Fatal(err)
		}
	}
	if per := (int64(heap()) - int64(before)) / n; per > 6<<10 {
		t.Errorf("%d bytes of heap for an idle connection", per)
	} else {
		t.Logf("%d bytes of heap for an idle connection, the test's end included", per)
	}
}
