// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// sleeping is a service that sleeps, and whose page is held for so long.
func sleeping(svc model.Service, page time.Duration) model.Service {
	svc.Sleep, svc.Backends = model.Asleep, nil
	svc.Workload = &model.Workload{Driver: "process", Scale: model.Scale{Page: page}}
	return svc
}

// waker is who wakes services in these tests: it waits for ready, or fails.
type waker struct {
	f     *fixture
	ready chan struct{} // closed: the service is awake
	to    model.Service // as it is then
	err   error
	woken atomic.Int32
}

func (w *waker) wake(ctx context.Context, _ model.ServiceName, _ string) error {
	w.woken.Add(1)
	if w.err != nil {
		return w.err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-w.ready:
		return nil
	}
}

// rise has the service awake.
func (w *waker) rise() {
	w.f.serve(w.to)
	close(w.ready)
}

func newWaker(t *testing.T, page time.Duration) *waker {
	t.Helper()
	w := &waker{ready: make(chan struct{}), to: on("a", "h.test", "/", backend(t, named("one")))}
	w.f = newFixture(t, Config{Wake: w.wake}, sleeping(w.to, page))
	return w
}

// TestW07WaitingPage: a page that a person looks at is held for a moment, then
// it says what happens and reloads; everything else is held until it is answered
// by the service (row D03).
func TestW07WaitingPage(t *testing.T) {
	const page = 50 * time.Millisecond
	browser := "text/html,application/xhtml+xml,*/*;q=0.8"
	t.Run("page", func(t *testing.T) {
		w := newWaker(t, page)
		get := "GET /x HTTP/1.1\r\nHost: h.test\r\nAccept: " + browser + "\r\n\r\n"
		begun := time.Now()
		res, body := w.f.dial().send(get).response("GET")
		if res.StatusCode != 503 || res.Header.Get("Retry-After") != "2" || res.Header.Get("Refresh") != "2" || res.Header.Get("Cache-Control") != "no-store" ||
			!strings.Contains(body, `http-equiv="refresh" content="2"`) || !strings.Contains(body, "p/a was asleep") {
			t.Errorf("%s %v %s", res.Status, res.Header, body)
		}
		if took := time.Since(begun); took < page {
			t.Errorf("it was not held: %s", took)
		}
		w.rise()
		if res, body := w.f.dial().send(get).response("GET"); res.StatusCode != 200 || body != "one GET /x " {
			t.Errorf("the reload: %s %s", res.Status, body)
		}
	})
	t.Run("HTTP/2 page", func(t *testing.T) {
		w := newWaker(t, page)
		res, body := fetch(t, w.f.client2(nil), "http://h.test/x", "Accept", browser)
		if res.StatusCode != 503 || res.Header.Get("Retry-After") != "2" || res.Header.Get("Refresh") != "2" || !strings.Contains(body, "This page reloads") {
			t.Errorf("%s %v %s", res.Status, res.Header, body)
		}
	})
	t.Run("quick start", func(t *testing.T) {
		w := newWaker(t, time.Minute)
		time.AfterFunc(page, w.rise)
		if res, body := w.f.dial().send("GET /x HTTP/1.1\r\nHost: h.test\r\nAccept: " + browser + "\r\n\r\n").response("GET"); res.StatusCode != 200 || body != "one GET /x " {
			t.Errorf("%s %s", res.Status, body)
		}
	})
	for name, request := range map[string]string{
		"program":      "GET /x HTTP/1.1\r\nHost: h.test\r\nAccept: */*\r\n\r\n",
		"no Accept":    "GET /x HTTP/1.1\r\nHost: h.test\r\n\r\n",
		"JSON":         "GET /x HTTP/1.1\r\nHost: h.test\r\nAccept: application/json\r\n\r\n",
		"form":         "POST /x HTTP/1.1\r\nHost: h.test\r\nAccept: " + browser + "\r\nContent-Length: 2\r\n\r\nab",
		"head":         "HEAD /x HTTP/1.1\r\nHost: h.test\r\nAccept: " + browser + "\r\n\r\n",
		"other method": "PUT /x HTTP/1.1\r\nHost: h.test\r\nAccept: text/html\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWaker(t, page)
			time.AfterFunc(3*page, w.rise)
			begun := time.Now()
			method, _, _ := strings.Cut(request, " ")
			res, body := w.f.dial().send(request).response(method)
			if res.StatusCode != 200 || method != "HEAD" && !strings.HasPrefix(body, "one "+method+" /x") || time.Since(begun) < 3*page {
				t.Errorf("%s %q after %s", res.Status, body, time.Since(begun))
			}
		})
	}
}

// later is an error that says when to ask again.
type later struct{ wait time.Duration }

func (later) Error() string               { return "it ended 3 times before it was ready: exit status 3" }
func (l later) RetryAfter() time.Duration { return l.wait }
func (l later) Is(target error) bool      { return target == errLater }

var errLater = errors.New("later")

// TestW03Answers: a service that cannot be woken is told of with 503, the
// reason and the time of the next try, in HTML and JSON, over HTTP/1 and 2.
func TestW03Answers(t *testing.T) {
	w := newWaker(t, time.Minute)
	w.err = fmt.Errorf("p/a: %w", later{2100 * time.Millisecond})
	for accept, kind := range map[string]string{"application/json": "application/json", "text/html": "text/html; charset=utf-8", "*/*": "text/html; charset=utf-8"} {
		res, body := w.f.dial().send("GET / HTTP/1.1\r\nHost: h.test\r\nAccept: " + accept + "\r\n\r\n").response("GET")
		if res.StatusCode != 503 || res.Header.Get("Retry-After") != "3" || res.Header.Get("Content-Type") != kind || !strings.Contains(body, "exit status 3") || res.Header.Get("Refresh") != "" {
			t.Errorf("%s: %s %v %s", accept, res.Status, res.Header, body)
		}
		if kind == "application/json" {
			var said struct{ Reason, RequestID string }
			if err := json.Unmarshal([]byte(body), &said); err != nil || !strings.Contains(said.Reason, "could not be woken") || said.RequestID == "" {
				t.Errorf("%s: %v", body, err)
			}
		}
	}
	res, body := fetch(t, w.f.client2(nil), "http://h.test/", "Accept", "application/json")
	if res.StatusCode != 503 || res.Header.Get("Retry-After") != "3" || !strings.Contains(body, "exit status 3") {
		t.Errorf("HTTP/2: %s %v %s", res.Status, res.Header, body)
	}
}

// TestW03NotRunning: of a service that nobody may wake, because its owner
// stopped it or because it always runs, the front asks why (row A30).
func TestW03NotRunning(t *testing.T) {
	svc := sleeping(on("a", "h.test", "/"), 0)
	svc.Sleep = model.NeverSleeps
	woken := 0
	f := newFixture(t, Config{
		Wake: func(context.Context, model.ServiceName, string) error { woken++; return nil },
		Why: func(model.ServiceName) (string, time.Duration) {
			return "replica p.a.1 ended: exit status 1", 7 * time.Second
		},
	}, svc)
	res, body := f.get("h.test", "/")
	if res.StatusCode != 503 || res.Header.Get("Retry-After") != "7" || !strings.Contains(body, "replica p.a.1 ended: exit status 1") || woken > 0 {
		t.Errorf("%s %v %s, woken %d times", res.Status, res.Header, body, woken)
	}
	if res, body := fetch(t, f.client2(nil), "http://h.test/"); res.StatusCode != 503 || !strings.Contains(body, "exit status 1") {
		t.Errorf("HTTP/2: %s %s", res.Status, body)
	}
}

// TestW03GRPC: a real gRPC client wakes a service and is answered by it; where
// it cannot be woken the client sees UNAVAILABLE with the reason.
func TestW03GRPC(t *testing.T) {
	at := realGRPC(t)
	w := &waker{ready: make(chan struct{}), to: on("a", "h.test", "/", at)}
	w.f = newFixture(t, Config{Wake: w.wake}, sleeping(w.to, 0))
	conn, err := grpc.NewClient("passthrough:///"+w.f.addr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("h.test"),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	w.err = later{time.Second}
	in, out := []byte("x"), []byte(nil)
	err = conn.Invoke(ctx, "/echo.Echo/Chat", &in, &out)
	if st := status.Convert(err); st.Code() != codes.Unavailable || !strings.Contains(st.Message(), "exit status 3") {
		t.Errorf("%v, want UNAVAILABLE with the reason", err)
	}
	w.err = nil
	time.AfterFunc(50*time.Millisecond, w.rise)
	if err := chat(ctx, conn, "/echo.Echo/Chat"); err != nil {
		t.Errorf("a call that wakes: %v", err)
	}
	if w.woken.Load() != 2 {
		t.Errorf("woken %d times", w.woken.Load())
	}
}

// TestD13NothingWakes: requests that are refused, redirected or nobody's.
func TestD13NothingWakes(t *testing.T) {
	a := newAuthority(t, "tls.test")
	var woken atomic.Int32
	closed := sleeping(on("c", "closed.test", "/"), 0)
	closed.Allow = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	redirected := sleeping(secured(on("r", "tls.test", "/")), 0)
	plain := sleeping(on("p", "plain.test", "/only"), 0)
	f := newFixture(t, Config{
		Certificates: a,
		Wake:         func(context.Context, model.ServiceName, string) error { woken.Add(1); return errLater },
	}, closed, redirected, plain)
	for request, code := range map[string]int{
		"GET / HTTP/1.1\r\nHost: closed.test\r\n\r\n":                                                                403,
		"GET / HTTP/1.1\r\nHost: tls.test\r\n\r\n":                                                                   301,
		"GET / HTTP/1.1\r\nHost: tls.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n":                      426,
		"GET /only HTTP/1.1\r\nHost: plain.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n":                403,
		"GET /other HTTP/1.1\r\nHost: plain.test\r\n\r\n":                                                            404,
		"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n":                                                                404,
		"GET /only/%2e%2e/x HTTP/1.1\r\nHost: plain.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
		"GET /only HTTP/1.1\r\n\r\n":                                                                                 400,
	} {
		if res, body := f.dial().send(request).response("GET"); res.StatusCode != code {
			t.Errorf("%q: %s %s, want %d", request, res.Status, body, code)
		}
	}
	if n := woken.Load(); n != 0 {
		t.Errorf("woken %d times", n)
	}
	if f.get("plain.test", "/only"); woken.Load() != 1 {
		t.Error("a good request wakes nothing: this test proves nothing")
	}
}
