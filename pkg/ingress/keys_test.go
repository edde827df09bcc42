// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// TestD07KeysAreServed: the platform's host has the public keys in HTTP and
// HTTPS, whatever services there are, also on a host that a service has, and
// waking nobody (row D13).
func TestD07KeysAreServed(t *testing.T) {
	a := newAuthority(t, "id.test", "h.test")
	const set = `{"keys":[]}`
	cfg := Config{Certificates: a, Keys: func() ([]byte, time.Duration) { return []byte(set), 15 * time.Minute }}
	asleep := secured(on("a", "h.test", "/"))
	asleep.Sleep, asleep.Backends = model.Asleep, nil
	for _, tc := range []struct {
		name, host string
		own        bool
		services   []model.Service
	}{
		{"own host", "id.test", true, nil},
		{"a service's host", "h.test", false, []model.Service{asleep}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, cfg)
			f.state.Settings.Tokens = model.Tokens{Host: tc.host, Own: tc.own}
			f.serve(tc.services...)
			url := "https://" + tc.host + keysPath
			check := func(proto string, res *http.Response, body string) {
				t.Helper()
				if res.StatusCode != 200 || body != set || res.Header.Get("Cache-Control") != "public, max-age=900" ||
					res.Header.Get("Content-Type") != "application/jwk-set+json" || res.Header.Get("Access-Control-Allow-Origin") != "*" {
					t.Errorf("%s: %s %q %v", proto, res.Status, body, res.Header)
				}
			}
			res, body := f.get(tc.host, keysPath)
			check("http", res, body)
			res, body = f.dialTLS(a, tc.host).send("GET " + keysPath + " HTTP/1.1\r\nHost: " + tc.host + "\r\n\r\n").response("GET")
			check("https", res, body)
			res, body = fetch(t, f.client2(a), url)
			check("HTTP/2", res, body)
			if res, _ := f.dial().send("POST " + keysPath + " HTTP/1.1\r\nHost: " + tc.host + "\r\nContent-Length: 0\r\n\r\n").response("POST"); res.StatusCode != 405 || res.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("POST: %s %v", res.Status, res.Header)
			}
			if res, body := f.dial().send("HEAD " + keysPath + " HTTP/1.1\r\nHost: " + tc.host + "\r\n\r\n").response("HEAD"); res.StatusCode != 200 || body != "" {
				t.Errorf("HEAD: %s %q", res.Status, body)
			}
			if res, body := f.get("other.test", keysPath); res.StatusCode != 404 {
				t.Errorf("another host: %s %q", res.Status, body)
			}
			if tc.own {
				if res, body := f.get(tc.host, "/"); res.StatusCode != 404 || !strings.Contains(body, "no service at this path") {
					t.Errorf("another path: %s %q", res.Status, body)
				}
			}
		})
	}
}

// TestNobodyListensForKeysAlone: names.domain as the host opens no port by
// itself.
func TestNobodyListensForKeysAlone(t *testing.T) {
	f := newFixture(t, Config{Keys: func() ([]byte, time.Duration) { return nil, 0 }})
	f.state.Settings.Tokens.Host = "fairlead.test"
	f.serve()
	if plain, secure := f.Addrs(); plain != nil || secure != nil {
		t.Errorf("listens on %v and %v", plain, secure)
	}
}
