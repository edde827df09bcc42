// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func kept(b string, m *Message) string {
	var out strings.Builder
	for _, s := range m.Keep {
		out.WriteString(b[s.Start:s.End])
	}
	return out.String()
}

const browser = "GET /a/b?c=d HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\nAccept: text/html\r\nCookie: a=b; c=d\r\n\r\n"

func TestRequest(t *testing.T) {
	var r Request
	if err := r.Parse([]byte(browser+"rest"), Options{}); err != nil {
		t.Fatal(err)
	}
	if string(r.Method) != "GET" || string(r.Path) != "/a/b" || string(r.Query) != "?c=d" || string(r.Host) != "shop.example.com" ||
		!r.KeepAlive || r.Len != len(browser) || r.ContentLength != -1 || !r.Plain {
		t.Errorf("%+v", r)
	}
	if got, want := kept(browser, &r.Message), "Host: shop.example.com\r\nAccept: text/html\r\nCookie: a=b; c=d\r\n"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
	if len(r.Keep) != 2 {
		t.Errorf("%d runs, want 2", len(r.Keep))
	}
	for n := range len(browser) {
		if err := r.Parse([]byte(browser[:n]), Options{}); !errors.Is(err, ErrShort) {
			t.Fatalf("%q: %v, want ErrShort", browser[:n], err)
		}
	}
}

func TestRequestAllocatesNothing(t *testing.T) {
	var r Request
	b := []byte(browser)
	if n := testing.AllocsPerRun(100, func() { _ = r.Parse(b, Options{}) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRequestRefused(t *testing.T) {
	const h = "Host: x\r\n"
	for _, tt := range []struct {
		in   string
		want *Error
	}{
		{"GET / HTTP/1.1\r\n" + h + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", errBoth},
		{"GET / HTTP/1.1\r\n" + h + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", errLengths},
		{"GET / HTTP/1.1\r\n" + h + "Content-Length: 1, 1\r\n\r\n", errLength},
		{"GET / HTTP/1.1\r\n" + h + "Content-Length: +1\r\n\r\n", errLength},
		{"GET / HTTP/1.1\r\n" + h + "Content-Length: 0x1\r\n\r\n", errLength},
		{"GET / HTTP/1.1\r\n" + h + "Content-Length: -1\r\n\r\n", errLength},
		{"GET / HTTP/1.1\r\n" + h + "Content-Length: \r\n\r\n", errLength},
		{"GET / HTTP/1.1\r\n" + h + "Content-Length: 99999999999999999999\r\n\r\n", errLength},
		{"GET / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", errCodings},
		{"GET / HTTP/1.1\r\n" + h + "Transfer-Encoding: gzip, chunked\r\n\r\n", errCoding},
		{"GET / HTTP/1.1\r\n" + h + "Transfer-Encoding: identity\r\n\r\n", errCoding},
		{"GET / HTTP/1.1\r\n" + h + "Transfer-Encoding: \x0bchunked\r\n\r\n", errValue},
		{"GET / HTTP/1.0\r\n" + h + "Transfer-Encoding: chunked\r\n\r\n", errCoding10},
		{"GET / HTTP/1.1\r\n" + h + h + "\r\n", errHosts},
		{"GET / HTTP/1.1\r\nAccept: x\r\n\r\n", errNoHost},
		{"GET / HTTP/1.1\r\nHost: \r\n\r\n", errHost},
		{"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", errHost},
		{"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", errHost},
		{"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", errHost},
		{"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", errHost},
		{"GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n", errHost},
		{"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", errHost},
		{"GET http://y/ HTTP/1.1\r\n" + h + "\r\n", errAuthority},
		{"GET http://x:80/ HTTP/1.1\r\n" + h + "\r\n", errAuthority},
		{"GET http:///a HTTP/1.1\r\n" + h + "\r\n", errTarget},
		{"GET ftp://x/ HTTP/1.1\r\n" + h + "\r\n", errTarget},
		{"GET x HTTP/1.1\r\n" + h + "\r\n", errTarget},
		{"GET * HTTP/1.1\r\n" + h + "\r\n", errTarget},
		{"GET /#f HTTP/1.1\r\n" + h + "\r\n", errTarget},
		{"GET /a\tb HTTP/1.1\r\n" + h + "\r\n", errTarget},
		{"GET /a b HTTP/1.1\r\n" + h + "\r\n", errLine},
		{"GET  / HTTP/1.1\r\n" + h + "\r\n", errLine},
		{"GET / HTTP/1.1 \r\n" + h + "\r\n", errLine},
		{"GET /\r\n" + h + "\r\n", errTarget},
		{"GET / HTTP/2.0\r\n" + h + "\r\n", errVersion},
		{"GET / HTTP/1.2\r\n" + h + "\r\n", errVersion},
		{"GET / http/1.1\r\n" + h + "\r\n", errLine},
		{"G=T / HTTP/1.1\r\n" + h + "\r\n", errMethod},
		{"CONNECT x:80 HTTP/1.1\r\n" + h + "\r\n", errConnect},
		{"GET / HTTP/1.1\n" + h + "\r\n", errLF},
		{"GET / HTTP/1.1\r\nHost: x\n\r\n", errLF},
		{"GET / HTTP/1.1\r\n" + h + "\n", errLF},
		{"GET / HTTP/1.1\r\nHost: x\ry\r\n\r\n", errLF},
		{"GET / HTTP/1.1\r\nHost : x\r\n\r\n", errColon},
		{"GET / HTTP/1.1\r\n" + h + " folded\r\n\r\n", errFold},
		{"GET / HTTP/1.1\r\n Host: x\r\n\r\n", errFold},
		{"GET / HTTP/1.1\r\n" + h + ": y\r\n\r\n", errName},
		{"GET / HTTP/1.1\r\n" + h + "a\x00b: y\r\n\r\n", errName},
		{"GET / HTTP/1.1\r\n" + h + "A: a\x00b\r\n\r\n", errValue},
		{"GET / HTTP/1.1\r\n" + h + "A: a\x7fb\r\n\r\n", errValue},
		{"GET / HTTP/1.1\r\n" + h + strings.Repeat("A: b\r\n", 100) + "\r\n", errMany},
		{"GET / HTTP/1.1\r\n" + h + "Connection: " + strings.Repeat("a,", 40) + "\r\n\r\n", errOptions},
		{"\r\n\r\nGET / HTTP/1.1\r\n" + h + "\r\n", errMethod},
		{"\nGET / HTTP/1.1\r\n" + h + "\r\n", errMethod},
	} {
		var r Request
		if err := r.Parse([]byte(tt.in), Options{}); err != tt.want {
			t.Errorf("%q: %v, want %v", tt.in, err, tt.want)
		}
	}
}

func TestRequestAccepted(t *testing.T) {
	for in, want := range map[string]string{
		"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n":                                               "Host: x\r\n",
		"GET http://X:80/a HTTP/1.1\r\nHost: x:80\r\n\r\n":                                    "Host: x:80\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n":                                      "Host: [::1]:8080\r\n",
		"GET / HTTP/1.1\r\nHOST:x\r\nA:\t b\tc \t\r\n\r\n":                                    "HOST:x\r\nA:\t b\tc \t\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nA: \r\nB:\r\n\r\n":                                      "Host: x\r\nA: \r\nB:\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, X-A ,Host\r\nX-a: 1\r\nB: 2\r\n\r\n": "Host: x\r\nB: 2\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: z\r\nProxy: z\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: z\r\n\r\n": "Host: x\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\n\r\n": "Host: x\r\nTE: trailers\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1\r\nX-FORWARDED-port: 2\r\nX_Forwarded_For: 3\r\nx-real-ip: 4\r\nX-Request-Id: 5\r\nX_Request-ID: 6\r\nForwarded: for=7\r\nX-Forward: 8\r\n\r\n": "Host: x\r\nX-Forward: 8\r\n",
	} {
		var r Request
		if err := r.Parse([]byte(in), Options{}); err != nil {
			t.Errorf("%q: %v", in, err)
		} else if got := kept(in, &r.Message); got != want {
			t.Errorf("%q:\nkept %q\nwant %q", in, got, want)
		}
	}
}

func TestRequestOfATrustedProxy(t *testing.T) {
	in := "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1\r\nX-Forwarded-Port: 2\r\nX_Forwarded_Port: 3\r\nX-Real-IP: 4\r\nX-Request-ID: 5\r\nForwarded: for=7\r\nX-Forwarded-Proto: https\r\n\r\n"
	var r Request
	if err := r.Parse([]byte(in), Options{Trusted: true}); err != nil {
		t.Fatal(err)
	}
	if got, want := kept(in, &r.Message), "Host: x\r\nX-Forwarded-Port: 2\r\nX-Real-IP: 4\r\nForwarded: for=7\r\n"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
	if string(r.ForwardedFor) != "1" || string(r.ForwardedProto) != "https" || string(r.RequestID) != "5" {
		t.Errorf("%q %q %q", r.ForwardedFor, r.ForwardedProto, r.RequestID)
	}
}

func TestResponse(t *testing.T) {
	in := "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\nhello"
	var r Response
	if err := r.Parse([]byte(in), Options{}); err != nil {
		t.Fatal(err)
	}
	if r.Status != 200 || r.ContentLength != 5 || r.Len != len(in)-5 || kept(in, &r.Message) != "Server: x\r\nContent-Length: 5\r\n" {
		t.Errorf("%+v", r)
	}
	for in, want := range map[string]error{
		"HTTP/1.1 200\r\n\r\n":                 nil,
		"HTTP/1.0 404 \r\n\r\n":                nil,
		"HTTP/1.1 20\r\n\r\n":                  errStatus,
		"HTTP/1.1 200OK\r\n\r\n":               errStatus,
		"HTTP/1.1 600 x\r\n\r\n":               errStatus,
		"HTTP/2.0 200 x\r\n\r\n":               errStatus,
		"HTTP/1.1  200 x\r\n\r\n":              errStatus,
		"HTTP/1.1 200 x\n\r\n":                 errLF,
		"HTTP/1.1 200 x\r\nA: b\r\n c\r\n\r\n": errFold,
		"HTTP/1.1 200 x\r\nA : b\r\n\r\n":      errColon,
		"HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n":          errLengths,
		"HTTP/1.1 200 x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": errBoth,
		"HTTP/1.1 200 x\r\nA: b\r\n": ErrShort,
	} {
		if err := r.Parse([]byte(in), Options{}); err != want {
			t.Errorf("%q: %v, want %v", in, err, want)
		}
	}
}

// follow feeds a chunked body in pieces and returns what is passed on.
func follow(c *Chunked, body string, piece int) (pass string, rest int, err error) {
	for i := 0; i < len(body) && !c.Done(); i += piece {
		b := []byte(body[i:min(i+piece, len(body))])
		n, read, tail, err := c.Next(b)
		if err != nil {
			return pass, 0, err
		}
		pass += string(b[:n]) + string(tail)
		if c.Done() {
			return pass, len(body) - i - read, nil
		}
	}
	return pass, 0, nil
}

func TestChunked(t *testing.T) {
	for _, tt := range []struct{ in, want, bare string }{
		{"5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "hello"},
		{"5\r\nhello\r\n00A;x=y;z=\"\t\"\r\n0123456789\r\n0;a\r\n\r\n", "5\r\nhello\r\n00A\r\n0123456789\r\n0\r\n\r\n", "hello0123456789"},
		{"1\r\na\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nX_Forwarded-For: 9\r\nB: 2\r\n\r\n", "1\r\na\r\n0\r\nX-Sum: 1\r\nB: 2\r\n\r\n", "a"},
		{"0\r\nHost: x\r\n\r\n", "0\r\n\r\n", ""},
	} {
		for piece := 1; piece <= len(tt.in)+4; piece++ {
			for _, bare := range []bool{false, true} {
				c := &Chunked{Bare: bare}
				want := tt.want
				if bare {
					want = tt.bare
				}
				got, rest, err := follow(c, tt.in+"GET ", piece)
				if err != nil || got != want || !c.Done() {
					t.Fatalf("%q in pieces of %d, bare %v: %q, %v, want %q", tt.in, piece, bare, got, err, want)
				}
				if piece >= len(tt.in)+4 && rest != 4 {
					t.Errorf("%q: %d bytes left, want 4", tt.in, rest)
				}
			}
		}
	}
}

func TestChunkedRefused(t *testing.T) {
	for _, in := range []string{
		"\r\n", "x\r\n", "-1\r\n", "+1\r\n", " 1\r\n", "1 \r\na", "0x1\r\n", "1\na\r\n", "1\r\nab", "1\r\na\n", "1\r\na\r0",
		"1;a\nb\r\n", "1;a\x00\r\n", "1000000000000000\r\n", "0\r\n\n", "0\r\n\rX", "0\r\nA b\r\n\r\n", "0\r\nA: b\n\r\n\r\n", "0\r\n A: b\r\n\r\n",
		"0\r\nA: " + strings.Repeat("b", maxTrailers) + "\r\n", "1;" + strings.Repeat("b", maxExtensions+1),
	} {
		if _, _, err := follow(&Chunked{}, in, 1<<20); err == nil {
			t.Errorf("%.40q: no error", in)
		}
		if _, _, err := follow(&Chunked{}, in, 1); err == nil {
			t.Errorf("%.40q bytewise: no error", in)
		}
	}
}

// FuzzRequest: what this parser accepts, net/http accepts too and reads alike.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		browser, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "GET / HTTP/1.0\r\nHost: [::1]:80\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, x\r\nUpgrade: websocket\r\nX: y\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var r Request
		if r.Parse(in, Options{}) != nil {
			return
		}
		theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in[r.Line:])))
		if err != nil {
			// net/url knows fewer targets than RFC 9112: bad escapes, colons.
			if strings.Contains(err.Error(), "parse \"") || strings.Contains(err.Error(), "invalid URL") {
				return
			}
			t.Fatalf("accepted here, refused by net/http: %v\n%q", err, in)
		}
		if theirs.Method != string(r.Method) || theirs.Host != string(r.Host) && r.authority == nil {
			t.Fatalf("read as %q %q, by net/http as %q %q", r.Method, r.Host, theirs.Method, theirs.Host)
		}
		length := r.ContentLength
		if r.Chunked {
			length = -1
		} else if length < 0 {
			length = 0
		}
		if theirs.ContentLength != length {
			t.Fatalf("body of %d, by net/http %d\n%q", length, theirs.ContentLength, in)
		}
		for _, s := range r.Keep {
			if s.Start < int32(r.Fields) || s.End > int32(r.Len) || s.Start >= s.End {
				t.Fatalf("run %v of a head of %d..%d", s, r.Fields, r.Len)
			}
		}
		// What is passed on is read alike once more, and says nothing of hops.
		again := "GET / HTTP/1.1\r\n" + kept(string(in), &r.Message) + "\r\n"
		var r2 Request
		if err := r2.Parse([]byte(again), Options{}); err != nil && r.Minor == 1 {
			t.Fatalf("what is passed on is refused: %v\n%q", err, again)
		}
	})
}

// FuzzChunked: what is passed on is what net/http reads, in whatever pieces.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), 3)
	f.Add([]byte("5;a=b\r\nhello\r\n0\r\nA: b\r\nHost: c\r\n\r\nGET"), 1)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if piece <= 0 {
			return
		}
		whole := &Chunked{}
		pass, _, err := follow(whole, string(in), len(in)+1)
		if err != nil || !whole.Done() {
			return
		}
		if pieces, _, err := follow(&Chunked{}, string(in), piece); err != nil || pieces != pass {
			t.Fatalf("%q in pieces of %d: %q, %v; whole: %q", in, piece, pieces, err, pass)
		}
		bare, _, err := follow(&Chunked{Bare: true}, string(in), piece)
		if err != nil {
			t.Fatal(err)
		}
		head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		theirs, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + pass)))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(theirs.Body)
		if err != nil || string(body) != bare {
			t.Fatalf("net/http reads %q, %v; here %q", body, err, bare)
		}
	})
}

// FuzzResponse: what this parser accepts, net/http accepts too and reads alike.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.0 404 \r\nConnection: close\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive, X-A\r\nX-A: b\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var r Response
		if r.Parse(in, Options{}) != nil {
			return
		}
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("accepted here, refused by net/http: %v\n%q", err, in)
		}
		if theirs.StatusCode != r.Status {
			t.Fatalf("status %d, by net/http %d", r.Status, theirs.StatusCode)
		}
		if !r.Bodiless([]byte("GET")) && !r.Chunked && theirs.ContentLength != r.ContentLength {
			t.Fatalf("body of %d, by net/http %d\n%q", r.ContentLength, theirs.ContentLength, in)
		}
		again := "HTTP/1.1 200 OK\r\n" + kept(string(in), &r.Message) + "\r\n"
		var r2 Response
		if err := r2.Parse([]byte(again), Options{}); err != nil {
			t.Fatalf("what is passed on is refused: %v\n%q", err, again)
		}
	})
}
