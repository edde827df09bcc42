// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// stallReplica sends for ever, takes a body, or is silent between two events.
func stallReplica(gone chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/endless":
			b := make([]byte, 1<<16)
			for {
				if _, err := w.Write(b); err != nil {
					gone <- err
					return
				}
			}
		case "/upload":
			_, err := io.Copy(io.Discard, r.Body)
			gone <- err
		case "/events":
			for i := range 3 {
				fmt.Fprint(w, i)
				w.(http.Flusher).Flush()
				time.Sleep(300 * time.Millisecond) // longer than the limit
			}
		default:
			_, _ = io.WriteString(w, "fine")
		}
	}
}

// A stream whose client neither takes nor sends is ended, and the others of
// its connection go on; an answer that is silent is not stalled.
func TestHTTP2StalledStreams(t *testing.T) {
	gone := make(chan error, 4)
	f := newFixture(t, Config{Limits: Limits{Stall: 150 * time.Millisecond}}, on("a", "h", "/", backend(t, stallReplica(gone))))
	c := f.client2(nil)
	ended := func(what string) {
		t.Helper()
		select {
		case err := <-gone:
			if err == nil {
				t.Errorf("%s: the replica saw an orderly end", what)
			}
		case <-time.After(long / 2): // before the client itself gives up
			t.Fatalf("%s: the replica still waits", what)
		}
		if res, body := fetch(t, c, "http://h/fine"); res.StatusCode != 200 || body != "fine" {
			t.Errorf("%s: another stream: %s %q", what, res.Status, body)
		}
	}
	// The client's window fills, as nobody reads.
	res, err := c.Get("http://h/endless")
	if err != nil {
		t.Fatal(err)
	}
	ended("download")
	if _, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Error("download: the stream ended as if it were whole")
	}
	_ = res.Body.Close()

	pr, pw := io.Pipe()
	defer pw.Close()
	go func() { _, _ = io.WriteString(pw, "some") }()
	req, _ := http.NewRequest("POST", "http://h/upload", pr)
	req.Header.Set("Accept", "application/json")
	if res, err = c.Do(req); err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(body), "no byte of the request's body") {
		t.Errorf("upload: %s %s", res.Status, body)
	}
	ended("upload")

	if res, body := fetch(t, c, "http://h/events"); res.StatusCode != 200 || body != "012" {
		t.Errorf("events: %s %q", res.Status, body)
	}
}

// A gRPC client may be silent longer than any limit.
func TestHTTP2SilentGRPCStreamStaysOpen(t *testing.T) {
	f := newFixture(t, Config{Limits: Limits{Stall: 50 * time.Millisecond}}, on("a", "h", "/echo", grpcBackend(t, nil)))
	pr, pw := io.Pipe()
	req, _ := http.NewRequest("POST", "http://h/echo/x", pr)
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	res, err := f.client2(nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for range 2 {
		time.Sleep(200 * time.Millisecond) // the thing under test
		_, _ = pw.Write(grpcFrame("one"))
		b := make([]byte, len(grpcFrame("one")))
		if _, err := io.ReadFull(res.Body, b); err != nil {
			t.Fatal(err)
		}
	}
	_ = pw.Close()
	if _, err := io.ReadAll(res.Body); err != nil || res.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%v, trailer %v", err, res.Trailer)
	}
}
