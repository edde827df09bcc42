// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// mutate changes a request in a few places, with what parsers stumble over.
func mutate(r *rand.Rand, in []byte) []byte {
	pieces := []string{
		"\r", "\n", "\r\n", "\r\n\r\n", " ", "\t", ":", "\x00", ",", ";", "chunked", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n",
		"Host: h\r\n", "0\r\n\r\n", "5\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "Connection: close\r\n", "Expect: 100-continue\r\n", "Upgrade: websocket\r\n", "\x80", "%2e%2e/", "#",
	}
	out := bytes.Clone(in)
	for range 1 + r.IntN(3) {
		i := r.IntN(len(out))
		switch r.IntN(4) {
		case 0:
			out[i] = byte(r.IntN(256))
		case 1:
			out = append(out[:i], out[min(i+1+r.IntN(4), len(out)):]...)
		case 2:
			out = append(out[:i:i], append([]byte(pieces[r.IntN(len(pieces))]), out[i:]...)...)
		default:
			j := i + r.IntN(min(40, len(out)-i))
			out = append(out[:j:j], out[i:]...)
		}
		if len(out) == 0 {
			return []byte("\r\n")
		}
	}
	return out
}

// TestMutatedRequests: whatever clients send, the replica sees whole and valid
// requests or a connection that ends, and the front answers or closes.
func TestMutatedRequests(t *testing.T) {
	replica := newRecording(t)
	f := newFixture(t, Config{}, on("a", "h", "/", replica.addr))
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	refused, passed := 0, 0
	for i := range 4000 {
		base := corpus[r.IntN(len(corpus))]
		for i%2 == 0 && base.want == nil { // half of them begin as valid ones
			base = corpus[r.IntN(len(corpus))]
		}
		in := mutate(r, []byte(base.in))
		c, err := net.Dial("tcp", f.addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(long))
		_, _ = c.Write(in)
		_ = c.(*net.TCPConn).CloseWrite()
		br := bufio.NewReader(c)
		for {
			res, err := http.ReadResponse(br, nil)
			if err != nil {
				if ne, ok := err.(net.Error); ok && ne.Timeout() {
					t.Errorf("case %d of seed %d hangs: %q", i, seed, in)
				}
				break
			}
			_, _ = io.Copy(io.Discard, res.Body)
			if res.StatusCode >= 400 {
				refused++
			} else {
				passed++
			}
		}
		_ = c.Close()
		_, bad := replica.take()
		for _, b := range bad {
			// A client that ends within a body ends the replica's request, too.
			if !strings.Contains(b, "unexpected EOF") {
				t.Errorf("case %d of seed %d: the replica read what is no request: %s\n%q", i, seed, b, in)
			}
		}
	}
	if refused < 500 || passed < 500 {
		t.Errorf("%d refused, %d passed: the mutations do not try both", refused, passed)
	}
}
