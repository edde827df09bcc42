// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// recording is a backend that notes every byte it gets. It reads messages with
// net/http and answers each.
type recording struct {
	addr netip.AddrPort
	mu   sync.Mutex
	all  []string // requests as they were read: METHOD TARGET BODY
	bad  []string // bytes that were none
}

func newRecording(t *testing.T) *recording {
	r := &recording{}
	r.addr = rawBackend(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				if err != io.EOF && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "closed") {
					r.note(&r.bad, err.Error())
				}
				return
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				r.note(&r.bad, "body: "+err.Error())
				return
			}
			r.note(&r.all, fmt.Sprintf("%s %s %q", req.Method, req.RequestURI, body))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	return r
}

func (r *recording) note(to *[]string, s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*to = append(*to, s)
}

func (r *recording) take() (all, bad []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, bad = r.all, r.bad
	r.all, r.bad = nil, nil
	return all, bad
}

// startNginx runs nginx as a reverse proxy of the backend.
func startNginx(t *testing.T, to netip.AddrPort) string {
	t.Helper()
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		for _, p := range []string{"/usr/sbin/nginx"} {
			if _, err := os.Stat(p); err == nil {
				nginx = p
			}
		}
	}
	if nginx == "" {
		t.Fatal("nginx is not installed: run scripts/setup.sh test")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	conf := fmt.Sprintf(`daemon off; master_process off; %s worker_processes 1; pid %s/pid; error_log stderr crit;
events { worker_connections 256; }
http { access_log off; client_body_temp_path %s/b; proxy_temp_path %s/p; fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;
upstream r { server %s; keepalive 8; }
server { listen %s; proxy_request_buffering off; location / { proxy_pass http://r; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host; } } }
`, user, dir, dir, dir, dir, dir, dir, to, addr)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command(nginx, "-e", "stderr", "-p", dir, "-c", path)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("nginx said:\n%s", out.String())
		}
	})
	deadline := time.Now().Add(long)
	for {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("nginx does not answer: %v\n%s", err, out.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ask sends bytes and returns the codes of the answers.
func ask(t *testing.T, addr, in string) (codes []int) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(long))
	_, _ = io.WriteString(c, in)
	r := bufio.NewReader(c)
	for {
		_ = c.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return codes
		}
		_, _ = io.Copy(io.Discard, res.Body)
		codes = append(codes, res.StatusCode)
	}
}

// corpus is what request smuggling is tried with. want is what the replica
// reads through fairlead; why explains where nginx lets through something else.
var corpus = []struct {
	name, in string
	want     []string
	why      string
}{
	{"plain", "GET /a HTTP/1.1\r\nHost: h\r\n\r\n", []string{`GET /a ""`}, ""},
	{"two", "GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n", []string{`GET /a ""`, `GET /b ""`}, ""},
	{"length", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n", []string{`POST /a "abc"`, `GET /b ""`}, ""},
	{"chunks", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n", []string{`POST /a "abc"`, `GET /b ""`}, ""},
	{"CL.TE", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", nil, ""},
	{"TE.CL", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGET /x HTTP/1.1\r\n", nil, ""},
	{"TE twice", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", nil, ""},
	{"TE space", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", nil, ""},
	{"TE vtab", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", nil, ""},
	{"TE xchunked", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", nil, ""},
	{"TE folded", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", nil, ""},
	{"TE 1.0", "POST /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", nil, ""},
	{"TE list", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", nil, ""},
	{"CL twice", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 0\r\n\r\nabc", nil, ""},
	{"CL list", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc", nil, ""},
	{"CL plus", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", nil, ""},
	{"CL hex", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc", nil, ""},
	{"CL huge", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551617\r\n\r\na", nil, ""},
	{"bare LF", "GET /a HTTP/1.1\nHost: h\n\n", nil, "nginx takes LF alone for the end of a line, as old servers did"},
	{"LF in a header", "GET /a HTTP/1.1\r\nHost: h\r\nA: b\nContent-Length: 5\r\n\r\nGET /", nil, "the same: it sees a Content-Length there, and waits"},
	{"bare CR", "GET /a HTTP/1.1\r\nHost: h\r\nA: b\rContent-Length: 5\r\n\r\n", nil, ""},
	{"NUL", "GET /a HTTP/1.1\r\nHost: h\r\nA: a\x00b\r\n\r\n", nil, ""},
	{"folded", "GET /a HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", nil, ""},
	{"Host twice", "GET /a HTTP/1.1\r\nHost: h\r\nHost: evil\r\n\r\n", nil, ""},
	{"no Host", "GET /a HTTP/1.1\r\nA: b\r\n\r\n", nil, ""},
	{"absolute, other host", "GET http://evil/a HTTP/1.1\r\nHost: h\r\n\r\n", nil, "nginx takes the target's host, as RFC 9112 3.2.2 says; here a mismatch is refused"},
	{"absolute", "GET http://h/a?b HTTP/1.1\r\nHost: h\r\n\r\n", []string{`GET /a?b ""`}, ""},
	{"space in the target", "GET /a HTTP/1.1 b HTTP/1.1\r\nHost: h\r\n\r\n", nil, ""},
	{"fragment", "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", nil, "nginx cuts the fragment off"},
	{"HTTP/0.9", "GET /a\r\n", nil, "nginx answers HTTP/0.9"},
	{"HTTP/1.9", "GET /a HTTP/1.9\r\nHost: h\r\n\r\n", nil, "nginx takes any 1.x for 1.1"},
	{"chunk size sign", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", nil, ""},
	{"chunk size overflow", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", nil, ""},
	{"chunk LF", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", nil, "nginx takes LF alone for the end of a chunk's line"},
	{"chunk without CR", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX0\r\n\r\n", nil, ""},
	{"chunk extension", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0;z\r\n\r\n", []string{`POST /a "abc"`}, ""},
	{"trailer of framing", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: evil\r\n\r\n", []string{`POST /a "abc"`}, ""},
	{"name with space", "GET /a HTTP/1.1\r\nHost: h\r\nA b: c\r\n\r\n", nil, ""},
	{"empty name", "GET /a HTTP/1.1\r\nHost: h\r\n: c\r\n\r\n", nil, ""},
	{"method with a tab", "GE\tT /a HTTP/1.1\r\nHost: h\r\n\r\n", nil, ""},
	{"lower-case method", "get /a HTTP/1.1\r\nHost: h\r\n\r\n", []string{`get /a ""`}, "nginx refuses methods in lower case, which RFC 9110 allows"},
	{"CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", nil, ""},
	{"GET with a body", "GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n", []string{`GET /a "abc"`, `GET /b ""`}, ""},
	{"Connection: Content-Length", "POST /a HTTP/1.1\r\nHost: h\r\nConnection: Content-Length, Host, Transfer-Encoding\r\nContent-Length: 3\r\n\r\nabc", []string{`POST /a "abc"`}, ""},
	{"tab before value", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length:\t3\t\r\n\r\nabc", []string{`POST /a "abc"`}, "nginx takes a tab for a part of the value"},
	{"upgrade to h2c", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", []string{`GET /a ""`}, ""},
}

// TestDifferentialSmuggling sends every request through fairlead and nginx to a
// backend that records what it reads. Through fairlead it reads what the corpus
// says, and never bytes that are no request; where nginx differs, the corpus
// says why.
func TestDifferentialSmuggling(t *testing.T) {
	ours, theirs := newRecording(t), newRecording(t)
	f := newFixture(t, Config{}, on("a", "h", "/", ours.addr), on("b", "evil", "/", ours.addr))
	nginx := startNginx(t, theirs.addr)
	for _, c := range corpus {
		t.Run(c.name, func(t *testing.T) {
			var codes, nginxCodes []int
			var wg sync.WaitGroup
			wg.Go(func() { codes = ask(t, f.addr(), c.in) })
			wg.Go(func() { nginxCodes = ask(t, nginx, c.in) })
			wg.Wait()
			got, bad := ours.take()
			if strings.Join(got, ", ") != strings.Join(c.want, ", ") {
				t.Errorf("the replica read %q, want %q; answers %v", got, c.want, codes)
			}
			if len(c.want) == 0 && (len(codes) == 0 || codes[len(codes)-1] < 400) {
				t.Errorf("answers %v, want a refusal", codes)
			}
			if len(bad) > 0 {
				t.Errorf("bytes that are no request reached the replica: %q", bad)
			}
			other, _ := theirs.take()
			if differ := strings.Join(other, ", ") != strings.Join(c.want, ", "); differ != (c.why != "") {
				t.Errorf("through nginx the replica read %q (answers %v), and the corpus says: %q", other, nginxCodes, c.why)
			}
		})
	}
}
