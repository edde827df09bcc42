// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

const askJSON = "GET / HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\n\r\n"

// limited is a service that takes so many connections of a client at once, and
// none after that for a long time.
func limited(burst uint32, svc model.Service) model.Service {
	svc.RateLimit = model.RateLimit{PerSecond: 1, Burst: burst}
	return svc
}

// wants429 checks the answer to a client over its rate.
func wants429(t *testing.T, res *http.Response, body string) {
	t.Helper()
	wait, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if res.StatusCode != http.StatusTooManyRequests || err != nil || wait < 1 || wait > 2 {
		t.Errorf("%s, Retry-After %q; want 429 and about a second", res.Status, res.Header.Get("Retry-After"))
	}
	var said struct{ Reason, RequestID string }
	if err := json.Unmarshal([]byte(body), &said); err != nil || !strings.Contains(said.Reason, "1 a second") || said.RequestID == "" {
		t.Errorf("body %q, %v; want the reason", body, err)
	}
}

// A connection counts once, however many requests it brings; one over the rate
// gets 429, and the next service is another matter.
func TestRateLimitOfConnections(t *testing.T) {
	at := backend(t, named("one"))
	f := newFixture(t, Config{}, limited(3, on("a", "h", "/", at)), on("b", "other", "/", at))
	var last *raw
	for i := range 3 {
		last = f.dial()
		for range 5 {
			if res, _ := last.send(askJSON).response("GET"); res.StatusCode != 200 {
				t.Fatalf("connection %d: %s", i, res.Status)
			}
		}
	}
	over := f.dial()
	res, body := over.send(askJSON).response("GET")
	wants429(t, res, body)
	if res, _ := over.send("GET / HTTP/1.1\r\nHost: other\r\n\r\n").response("GET"); res.StatusCode != 200 {
		t.Errorf("a service without a limit: %s", res.Status)
	}
	if res, _ := last.send(askJSON).response("GET"); res.StatusCode != 200 {
		t.Errorf("a connection that was let through: %s", res.Status)
	}
	f.counts("p/a", func(c Count) bool { return c.Codes[429] == 1 && c.Codes[200] == 16 })
}

func TestRateLimitOfHTTP2(t *testing.T) {
	f := newFixture(t, Config{}, limited(1, on("a", "h", "/", backend(t, named("one")))))
	first := f.client2(nil)
	for range 3 {
		if res, _ := fetch(t, first, "http://h/"); res.StatusCode != 200 {
			t.Fatalf("%s", res.Status)
		}
	}
	res, body := fetch(t, f.client2(nil), "http://h/", "Accept", "application/json")
	wants429(t, res, body)
	res, _ = fetch(t, f.client2(nil), "http://h/", "Content-Type", "application/grpc")
	if res.Header.Get("Grpc-Status") != "14" || !strings.Contains(res.Header.Get("Grpc-Message"), "too%20many") {
		t.Errorf("gRPC: %s %v", res.Status, res.Header)
	}
}

// Clients behind a trusted proxy are told apart, by either way to tell of them.
func TestRateLimitBehindAProxy(t *testing.T) {
	f := newFixture(t, Config{}, limited(1, on("a", "h", "/", backend(t, named("one")))))
	f.trust("127.0.0.1/32")
	shared := f.dial()
	via := func(client string) int {
		res, _ := shared.send(strings.Replace(askJSON, "Accept:", "X-Forwarded-For: "+client+"\r\nAccept:", 1)).response("GET")
		return res.StatusCode
	}
	told := func(client string) int {
		res, _ := f.dial().send("PROXY TCP4 " + client + " 203.0.113.1 1 2\r\n" + askJSON).response("GET")
		return res.StatusCode
	}
	for i, got := range []int{via("192.0.2.1"), via("192.0.2.1"), via("192.0.2.2"), via("192.0.2.1"), told("192.0.2.3"), told("192.0.2.3"), told("192.0.2.2")} {
		if want := []int{200, 200, 200, 429, 200, 429, 429}[i]; got != want {
			t.Errorf("request %d: %d, want %d", i, got, want)
		}
	}
}

// D13: who is not allowed, or over the rate, wakes nobody.
func TestD13RefusedRequestsWakeNobody(t *testing.T) {
	var woken atomic.Int32
	var front atomic.Pointer[Target]
	at := backend(t, named("one"))
	asleep := limited(1, on("a", "h", "/"))
	asleep.Ports = on("a", "h", "/", at).Ports
	asleep.Workload, asleep.Sleep = &model.Workload{}, model.Asleep
	awake := asleep
	awake.Backends, awake.Sleep = on("a", "h", "/", at).Backends, model.Awake
	barred := asleep
	barred.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	settings := model.Settings{Listen: model.Listen{HTTP: "127.0.0.1:0", HTTPS: "127.0.0.1:0"}}
	f := newFixture(t, Config{Wake: func(ctx context.Context, _ model.ServiceName, _ string) error {
		woken.Add(1)
		return front.Load().Apply(ctx, &model.State{Settings: settings, Services: []*model.Service{&awake}})
	}}, barred)
	front.Store(f.Target)
	if res, _ := f.dial().send(askJSON).response("GET"); res.StatusCode != 403 || woken.Load() != 0 {
		t.Fatalf("not allowed: %s, woken %d times", res.Status, woken.Load())
	}
	f.serve(asleep)
	if res, _ := f.dial().send(askJSON).response("GET"); res.StatusCode != 200 || woken.Load() != 1 {
		t.Fatalf("the first: %s, woken %d times", res.Status, woken.Load())
	}
	f.serve(asleep) // again
	res, body := f.dial().send(askJSON).response("GET")
	wants429(t, res, body)
	res, _ = fetch(t, f.client2(nil), "http://h/")
	if res.StatusCode != 429 || woken.Load() != 1 {
		t.Errorf("HTTP/2 over the rate: %s, woken %d times", res.Status, woken.Load())
	}
}
