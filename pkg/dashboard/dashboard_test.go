// SPDX-License-Identifier: Apache-2.0

package dashboard

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// ask makes one request under the given Host and reads the answer.
func ask(t *testing.T, method, url, host string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}, Timeout: 30 * time.Second}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestPageAndHeaders(t *testing.T) {
	_, at := start(t, (&fake{n: 2}).views())
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/app.js": "text/javascript; charset=utf-8", "/style.css": "text/css; charset=utf-8",
		"/icon.svg": "image/svg+xml", "/view.json": "application/json",
	} {
		resp, body := ask(t, "GET", "http://"+at+path, "")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != kind || body == "" {
			t.Errorf("%s: %s, %q, %d bytes; want 200 and %q", path, resp.Status, resp.Header.Get("Content-Type"), len(body), kind)
		}
		csp := resp.Header.Get("Content-Security-Policy")
		has(t, path+": policy "+csp, csp, "default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "form-action 'none'")
		if strings.Contains(csp, "unsafe") || len(resp.Cookies()) > 0 || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v, want no unsafe source, no cookie, nosniff", path, resp.Header)
		}
		if allow := resp.Header.Get("Access-Control-Allow-Origin"); allow != "" {
			t.Errorf("%s: other origins may read it: %q", path, allow)
		}
	}
	if resp, _ := ask(t, "GET", "http://"+at+"/../dashboard.go", ""); resp.StatusCode != 404 {
		t.Errorf("a path out of the page: %s", resp.Status)
	}
}

// TestPageAsksNobodyElse: no file of the page names another origin.
func TestPageAsksNobodyElse(t *testing.T) {
	link := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9-]+\.[a-z]+[^ "')]*`)
	err := fs.WalkDir(files, "page", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := files.ReadFile(path)
		for _, l := range link.FindAllString(string(body), -1) {
			if l != "http://www.w3.org/2000/svg" { // a name, not an address
				t.Errorf("%s names %s", path, l)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOnlyReads(t *testing.T) {
	f := &fake{n: 1}
	_, at := start(t, f.views())
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"} {
		resp, _ := ask(t, method, "http://"+at+"/view.json", "")
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %s, Allow %q", method, resp.Status, resp.Header.Get("Allow"))
		}
	}
	if n := f.reads.Load(); n != 0 {
		t.Errorf("refused requests read the views %d times", n)
	}
	if resp, body := ask(t, "HEAD", "http://"+at+"/", ""); resp.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %s, %d bytes", resp.Status, len(body))
	}
}

// TestHostIsChecked: what DNS rebinding needs, a name of the stranger's, gets
// nothing, neither the page nor the data.
func TestHostIsChecked(t *testing.T) {
	f := &fake{n: 1}
	_, at := start(t, f.views())
	for host, want := range map[string]int{
		at: 200, "localhost:9321": 200, "LOCALHOST": 200, "localhost.": 200, "127.0.0.1": 200, "127.9.9.9:80": 200, "[::1]:9321": 200, "[::ffff:127.0.0.1]": 200,
		"evil.example": 421, "evil.example:9321": 421, "127.0.0.1.evil.example": 421, "localhost.evil.example": 421,
		"10.0.0.1:9321": 421, "0.0.0.0": 421, "[::]": 421, "[fe80::1%25lo]": 421, "fairlead": 421,
	} {
		for _, path := range []string{"/", "/view.json"} {
			if resp, body := ask(t, "GET", "http://"+at+path, host); resp.StatusCode != want || want == 421 && !strings.Contains(body, "localhost") {
				t.Errorf("Host %q, %s: %s, want %d", host, path, resp.Status, want)
			}
		}
	}
	// No Host at all, as HTTP/1.0 allows.
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(c, "GET /view.json HTTP/1.0\r\n\r\n")
	if b, _ := io.ReadAll(c); !bytes.HasPrefix(b, []byte("HTTP/1.0 421")) {
		t.Errorf("no Host: %.40q, want 421", b)
	}
}

func TestHostOfTheConfigAndOfTheConnection(t *testing.T) {
	local := &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 9321}
	for _, tc := range []struct {
		listen, host string
		want         bool
	}{
		{"lb.internal", "lb.internal:9321", true},
		{"lb.internal", "other.internal:9321", false},
		{"", "10.1.2.3:9321", true}, // the wildcard
		{"0.0.0.0", "10.1.2.3", true},
		{"::", "10.1.2.4", false},
		{"", "", false},
	} {
		h := guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }), net.JoinHostPort(tc.listen, "9321"))
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = tc.host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(local))))
		if (w.Code == 204) != tc.want {
			t.Errorf("listening on %q, Host %q: %d, want served %v", tc.listen, tc.host, w.Code, tc.want)
		}
	}
}

func TestViewIsWhatTheSocketShows(t *testing.T) {
	f := &fake{n: 1000}
	_, at := start(t, f.views())
	resp, body := ask(t, "GET", "http://"+at+"/view.json", "", "Accept-Encoding", "gzip")
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatalf("answer %s: %v", resp.Header, err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		At       int64
		Status   struct{ Verdict string }
		Services []struct {
			Name     string
			Replicas []struct{ Condition, Reason string }
		}
		Domains struct{ Domains []struct{ Host string } }
	}
	if err := json.Unmarshal(plain, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Services) != 1004 || v.Services[7].Replicas[1].Condition != "down" || v.Domains.Domains[0].Host != "shop.example.com" || v.At == 0 || v.Status.Verdict == "" {
		t.Errorf("view: %d services, %+v", len(v.Services), v.Services[7])
	}
	t.Logf("1 000 services: %d bytes of JSON, %d in gzip", len(plain), len(body))
}

// TestManyPagesCostOne: readers share a snapshot, and slow views are read less often.
func TestManyPagesCostOne(t *testing.T) {
	f := &fake{n: 1}
	now := time.Unix(1000, 0)
	took := time.Millisecond
	read := f.views()
	slow := read.Services
	read.Services = func() any { now = now.Add(took); return slow() }
	v := &views{read: read, now: func() time.Time { return now }}
	get := func(want uint64) {
		t.Helper()
		if _, err := v.json(true); err != nil {
			t.Fatal(err)
		}
		if n := f.reads.Load(); n != want {
			t.Errorf("the views were read %d times, want %d", n, want)
		}
	}
	get(1)
	get(1)
	now = now.Add(fresh)
	took = 2 * time.Second
	get(2)
	now = now.Add(9 * time.Second)
	get(2)
	now = now.Add(2 * time.Second)
	get(3)

	_, at := start(t, read)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if resp, _ := ask(t, "GET", "http://"+at+"/view.json", ""); resp.StatusCode != 200 {
				t.Errorf("one of many: %s", resp.Status)
			}
		})
	}
	wg.Wait()
}

func TestListenerFollowsTheConfig(t *testing.T) {
	s, at := start(t, (&fake{}).views())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if got := apply(t.Context(), s, taken.Addr().String()); !strings.Contains(got, "listen.dashboard "+taken.Addr().String()+": the address is in use") {
		t.Errorf("taken port: error %q", got)
	}
	if resp, _ := ask(t, "GET", "http://"+at+"/", ""); resp.StatusCode != 200 {
		t.Errorf("the old address while the new one is taken: %s", resp.Status)
	}
	_ = taken.Close()
	if got := apply(t.Context(), s, taken.Addr().String()); got != "" || s.Addr().String() != taken.Addr().String() {
		t.Errorf("the port is free again: %q, listens on %v", got, s.Addr())
	}
	if got := apply(t.Context(), s, "192.0.2.1:9321"); got == "" {
		t.Error("an address this host has not: no error")
	}
	if got := apply(t.Context(), s, ""); got != "" || s.Addr() != nil {
		t.Errorf("off: %q, listens on %v", got, s.Addr())
	}
	if c, err := net.Dial("tcp", taken.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("off, and somebody answers")
	}
}

func BenchmarkView(b *testing.B) {
	v := &views{read: (&fake{n: 1000}).views(), now: time.Now}
	for b.Loop() {
		v.until = time.Time{}
		if _, err := v.json(true); err != nil {
			b.Fatal(err)
		}
	}
}
