// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/conn"
	"github.com/fairlead-lb/fairlead/pkg/model"
)

// Terminate: to a plain replica, to one with TLS that is verified, and not to
// one whose certificate is another's.
func TestTerminate(t *testing.T) {
	w := newWorld(t, nil)
	w.certs.Put("a.b", w.ca.issue(t, "a.b"))
	plain := serve(t, "127.0.0.1", "plain", 0, nil)
	w.apply(plain.addr.Port(), service(Redis, "a.b", "terminate", backend(plain)))
	c, err := w.tls(Redis, "a.b")
	must(t, err)
	if got := talk(t, c); got != "plain" {
		t.Errorf("leads to %s", got)
	}
	// Half-close: the client says it is done, and still gets the rest.
	big := bytes.Repeat([]byte("fairlead"), 100_000)
	go func() {
		_, _ = c.Write(big)
		_ = c.CloseWrite()
	}()
	if all, err := io.ReadAll(c); err != nil || !bytes.Equal(all, big) {
		t.Errorf("%d bytes came back, %v", len(all), err)
	}
	must(t, c.NetConn().Close())
	eventually(t, "the session ends", func() bool { return w.flows.count() == 0 })
	names := w.Names()
	if len(names) != 1 || names[0].Connections != 1 || names[0].BytesIn != uint64(len(big)+4) || names[0].Problem != "" {
		t.Errorf("names %+v", names)
	}

	over := serve(t, "127.0.0.1", "TLS", 0, overTLS(w.ca.issue(t, "in.b"), false))
	svc := service(Redis, "a.b", "terminate", backend(over))
	svc.TCPNames[0].BackendTLS = model.BackendTLS{Mode: "verify", ServerName: "in.b", CAFile: w.ca.file(t)}
	w.apply(over.addr.Port(), svc)
	c, err = w.tls(Redis, "a.b")
	must(t, err)
	if got := talk(t, c); got != "TLS" {
		t.Errorf("leads to %s", got)
	}
	svc.TCPNames[0].BackendTLS.ServerName = "other.b"
	w.apply(over.addr.Port(), svc)
	c, err = w.tls(Redis, "a.b")
	must(t, err)
	_, err = io.WriteString(c, "PING\r\n")
	must(t, err)
	must(t, c.CloseWrite())
	answer, _ := io.ReadAll(c)
	if !strings.HasPrefix(string(answer), "-ERR fairlead: no replica of the service could be reached") {
		t.Errorf("a certificate of another name: the client reads %q", answer)
	}
	eventually(t, "the log says why", func() bool { return strings.Contains(w.log.String(), "other.b") })
	svc.TCPNames[0].BackendTLS.CAFile = "/nonexistent/ca.pem"
	w.apply(over.addr.Port(), svc)
	if p := w.Problems(); len(p) != 1 || !strings.Contains(p[0], "/nonexistent/ca.pem") {
		t.Errorf("problems %q", p)
	}
}

// Without a certificate: an alert, a count, and a problem a person sees.
func TestTerminateWithoutCertificate(t *testing.T) {
	for _, adjust := range []func(*Config){nil, func(c *Config) { c.Certificates = nil }} {
		w := newWorld(t, adjust)
		s := serve(t, "127.0.0.1", "one", 0, nil)
		w.apply(s.addr.Port(), service(Postgres, "a.b", "terminate", backend(s)))
		if _, err := w.tls(Postgres, "a.b"); alertOf(err) != alertInternalError {
			t.Errorf("%v, want alert 80", err)
		}
		eventually(t, "count", func() bool { return w.count(Postgres, NoCertificate) == 1 })
		if n := w.Names(); len(n) != 1 || !strings.HasPrefix(n[0].Problem, "no certificate yet") {
			t.Errorf("names %+v", n)
		}
	}
}

// The PROXY header comes before everything else, TLS to the replica included.
func TestTerminateProxyHeader(t *testing.T) {
	w := newWorld(t, nil)
	w.certs.Put("a.b", w.ca.issue(t, "a.b"))
	cert := w.ca.issue(t, "a.b")
	for _, mode := range []string{"off", "on"} {
		for _, k := range []Kind{Redis, Postgres} {
			heads := make(chan []byte, 1)
			s := serve(t, "127.0.0.1", "one", 0, func(c net.Conn) (net.Conn, error) {
				b := make([]byte, 28)
				if _, err := io.ReadFull(c, b); err != nil {
					return nil, err
				}
				heads <- b
				if mode == "on" {
					return overTLS(cert, k == Postgres)(c)
				}
				return c, nil
			})
			svc := service(k, "a.b", "terminate", backend(s))
			svc.TCPNames[0].ProxyProtocol, svc.TCPNames[0].BackendTLS.Mode = true, mode
			w.apply(s.addr.Port(), svc)
			c, err := w.tls(k, "a.b")
			must(t, err)
			_, err = c.Write([]byte{0, 0, 0, 8, 0, 3, 0, 0}) // Postgres: a startup packet comes first
			must(t, err)
			local := c.LocalAddr().(*net.TCPAddr).AddrPort()
			want := conn.ProxyHeader(local, c.RemoteAddr().(*net.TCPAddr).AddrPort())
			if got := <-heads; !bytes.Equal(got, want) {
				t.Errorf("%s, TLS %s: header %x, want %x", k, mode, got, want)
			}
			must(t, c.NetConn().Close())
		}
	}
}

// L08 for terminated connections, and the end of the router.
func TestTerminatedConnectionsAreCut(t *testing.T) {
	w := newWorld(t, nil)
	w.certs.Put("a.b", w.ca.issue(t, "a.b"))
	one := serve(t, "127.0.0.1", "one", 0, nil)
	two := serve(t, "127.0.0.2", "two", one.addr.Port(), nil)
	svc := service(Redis, "a.b", "terminate", backend(one))
	svc.Drain = 20 * time.Millisecond
	w.apply(one.addr.Port(), svc)
	c, err := w.tls(Redis, "a.b")
	must(t, err)
	talk(t, c)
	svc.Backends = []model.Backend{backend(two)}
	w.apply(one.addr.Port(), svc)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the drain: %v, want a reset", err)
	}
	c, err = w.tls(Redis, "a.b")
	must(t, err)
	talk(t, c)
	must(t, w.Close())
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a closed router keeps a connection")
	}
}

// keyOf feeds a server's words to a keyWatch in pieces.
func keyOf(stream []byte, size int) (key string) {
	k := keyWatch{found: func(s string) { key = s }}
	for len(stream) > 0 {
		n := min(size, len(stream))
		k.see(stream[:n])
		stream = stream[n:]
	}
	return key
}

func TestBackendKeyData(t *testing.T) {
	auth, status := "R\x00\x00\x00\x08\x00\x00\x00\x00", "S\x00\x00\x00\x0aa\x00b\x00xy"
	key := "K\x00\x00\x00\x0c\x00\x00\x00\x07abcd"
	for name, tc := range map[string]struct{ stream, want string }{
		"usual":         {auth + status + key + "Z\x00\x00\x00\x05I", "\x00\x00\x00\x07abcd"},
		"protocol 3.2":  {auth + "K\x00\x00\x00\x28" + strings.Repeat("k", 36), strings.Repeat("k", 36)},
		"none":          {auth + "Z\x00\x00\x00\x05I" + key, ""},
		"after error":   {"E\x00\x00\x00\x05\x00" + key, ""},
		"broken length": {"R\x00\x00\x00\x01" + key, ""},
		"huge key":      {"K\x7f\xff\xff\xff" + strings.Repeat("k", 1000), ""},
	} {
		for _, size := range []int{1, 2, 7, 1000} {
			if got := keyOf([]byte(tc.stream), size); got != tc.want {
				t.Errorf("%s, %d at a time: key %q, want %q", name, size, got, tc.want)
			}
		}
	}
}

func FuzzBackendKeyData(f *testing.F) {
	f.Add([]byte("R\x00\x00\x00\x08\x00\x00\x00\x00K\x00\x00\x00\x0c\x00\x00\x00\x07abcdZ\x00\x00\x00\x05I"), uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, size uint8) {
		if whole, pieces := keyOf(stream, 1<<20), keyOf(stream, int(size)+1); whole != pieces || len(whole) > 4+pgKeyMost {
			t.Errorf("key %q, in pieces %q", whole, pieces)
		}
	})
}

// Whatever a client sends to the Postgres front: no panic, one answer at most
// to each request, and only what is TLS goes on.
func FuzzNegotiate(f *testing.F) {
	gss := "\x00\x00\x00\x08\x04\xd2\x16\x30"
	f.Add([]byte(gss + string(sslRequest) + "\x16\x03\x01"))
	f.Add([]byte("\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x07abcd"))
	f.Add([]byte("\x00\x00\x00\x08\x00\x03\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		i := &input{r: bytes.NewReader(in)}
		var out bytes.Buffer
		cancel, ref := i.negotiate(&out)
		if out.Len() > 2 {
			t.Errorf("answers %q", out.String())
		}
		switch {
		case ref != nil:
			if b := Postgres.answer(ref, i.buf); ref.text != "" && (len(b) == 0 || b[0] != 'E') {
				t.Errorf("answer %q to %v", b, ref)
			}
		case cancel != nil:
			if len(cancel) < 16 || len(cancel) > pgHead+4+pgKeyMost {
				t.Errorf("a CancelRequest of %d bytes", len(cancel))
			}
		case i.buf[0] != 22:
			t.Errorf("taken for TLS: %q", i.buf)
		}
	})
}

// A cancel key belongs to the service's allow list, too.
func TestCancelKeys(t *testing.T) {
	w := newWorld(t, nil)
	w.certs.Put("a.b", w.ca.issue(t, "a.b"))
	requests := make(chan []byte, 10)
	s := serve(t, "127.0.0.1", "", 0, func(c net.Conn) (net.Conn, error) {
		b := make([]byte, 16)
		n, err := io.ReadAtLeast(c, b, 8)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(b[4:8], []byte{0x04, 0xd2, 0x16, 0x2e}) {
			requests <- b[:n]
			return nil, io.EOF
		}
		_, err = io.WriteString(c, "K\x00\x00\x00\x0c\x00\x00\x00\x07abcdZ\x00\x00\x00\x05I")
		return c, err
	})
	svc := service(Postgres, "a.b", "terminate", backend(s))
	w.apply(s.addr.Port(), svc)
	c, err := w.tls(Postgres, "a.b")
	must(t, err)
	_, err = c.Write([]byte{0, 0, 0, 8, 0, 3, 0, 0})
	must(t, err)
	if _, err := io.ReadFull(c, make([]byte, 19)); err != nil {
		t.Fatal(err)
	}
	cancel := func(key string) error {
		p := w.dial(Postgres)
		_, err := io.WriteString(p, "\x00\x00\x00\x10\x04\xd2\x16\x2e"+key)
		must(t, err)
		b, err := io.ReadAll(p)
		if len(b) > 0 {
			t.Errorf("a CancelRequest is answered: %q", b)
		}
		return err
	}
	must(t, cancel("\x00\x00\x00\x07abcd"))
	if got := <-requests; string(got[8:]) != "\x00\x00\x00\x07abcd" {
		t.Errorf("the server got %q", got)
	}
	must(t, cancel("\x00\x00\x00\x07abce"))
	eventually(t, "counts", func() bool { return w.count(Postgres, Canceled) == 1 && w.count(Postgres, CancelUnknown) == 1 })
	// In TLS, as clients of version 17 do.
	tc, err := w.tls(Postgres, "a.b")
	must(t, err)
	_, err = io.WriteString(tc, "\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x07abcd")
	must(t, err)
	<-requests
	must(t, c.NetConn().Close())
	eventually(t, "the session ends", func() bool { return w.flows.count() == 0 })
	must(t, cancel("\x00\x00\x00\x07abcd"))
	eventually(t, "counts", func() bool { return w.count(Postgres, CancelUnknown) == 2 })
	svc.Allow = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	w.apply(s.addr.Port(), svc)
	if text := w.fatal("a.b"); !strings.Contains(text, "C28000") || !strings.Contains(text, "your address is not in the list") {
		t.Errorf("not allowed: %q", text)
	}
}
