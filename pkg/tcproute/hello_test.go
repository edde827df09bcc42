// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// recorder is a connection that gives what it was made with and keeps what is
// written.
type recorder struct {
	in  io.Reader
	out bytes.Buffer
}

func (r *recorder) Read(p []byte) (int, error)       { return r.in.Read(p) }
func (r *recorder) Write(p []byte) (int, error)      { return r.out.Write(p) }
func (r *recorder) Close() error                     { return nil }
func (r *recorder) LocalAddr() net.Addr              { return nil }
func (r *recorder) RemoteAddr() net.Addr             { return nil }
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// helloOf is the first flight of a crypto/tls client.
func helloOf(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	r := &recorder{in: strings.NewReader("")}
	c := cfg.Clone()
	c.InsecureSkipVerify = true
	_ = tls.Client(r, c).Handshake()
	if r.out.Len() == 0 {
		t.Fatal("no ClientHello was written")
	}
	return r.out.Bytes()
}

// rewrap puts the handshake bytes of records into records of another size.
func rewrap(records []byte, size int) []byte {
	var msg, out []byte
	for len(records) > 0 {
		n := int(binary.BigEndian.Uint16(records[3:]))
		msg = append(msg, records[5:5+n]...)
		records = records[5+n:]
	}
	for len(msg) > 0 {
		n := min(size, len(msg))
		out = append(out, 22, 3, 1, byte(n>>8), byte(n))
		out = append(out, msg[:n]...)
		msg = msg[n:]
	}
	return out
}

// raw makes a ClientHello of given extensions.
func raw(exts ...[]byte) []byte {
	all := bytes.Join(exts, nil)
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 0x01, 1, 0)
	body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
	body = append(body, all...)
	msg := append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	return rewrap(append([]byte{22, 3, 1, byte(len(msg) >> 8), byte(len(msg))}, msg...), 16<<10)
}

func ext(kind uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

func sni(name string) []byte {
	n := len(name)
	return ext(extServerName, append([]byte{byte((n + 3) >> 8), byte(n + 3), 0, byte(n >> 8), byte(n)}, name...))
}

// long makes a ClientHello of about n bytes: post-quantum keys, ECH and tickets
// are as opaque as this.
func long(name string, n int) []byte {
	var exts [][]byte
	for i := 0; n > 0; i++ {
		k := min(n, 60000)
		exts = append(exts, ext(uint16(0x6a6a+i), make([]byte, k)))
		n -= k
	}
	exts = append(exts, sni(name))
	all := bytes.Join(exts, nil)
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 0x01, 1, 0)
	body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
	body = append(body, all...)
	msg := append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	var out []byte
	for len(msg) > 0 {
		k := min(len(msg), 16<<10)
		out = append(out, 22, 3, 1, byte(k>>8), byte(k))
		out = append(out, msg[:k]...)
		msg = msg[k:]
	}
	return out
}

// readHello reads as serving does, k bytes at a time.
func readHello(in []byte, k int) (*clientHello, []byte, *refusal) {
	i := &input{r: &slices1{in, k}}
	h, ref := i.hello()
	return h, i.buf, ref
}

// slices1 gives at most k bytes at a time.
type slices1 struct {
	b []byte
	k int
}

func (s *slices1) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b[:min(s.k, len(s.b))])
	s.b = s.b[n:]
	return n, nil
}

func TestA27HelloInAnyPieces(t *testing.T) {
	plain := helloOf(t, &tls.Config{ServerName: "db.example.com", NextProtos: []string{"postgresql"}})
	if len(plain) < 1400 {
		t.Fatalf("a ClientHello of %d bytes has no post-quantum key", len(plain))
	}
	for _, hello := range [][]byte{
		plain, rewrap(plain, 1), rewrap(plain, 7), rewrap(plain, 100), raw(sni("db.example.com")),
		long("db.example.com", 40000),
		append(slices.Clone(plain), "\x14\x03\x03\x00\x01\x01early data"...),
	} {
		for _, k := range []int{1, 2, 5, 6, 100, 1448, 1 << 20} {
			if k < 5 && len(hello) > 20000 {
				continue
			}
			h, buf, ref := readHello(hello, k)
			if ref != nil || h.name != "db.example.com" {
				t.Fatalf("%d bytes, %d at a time: %+v, %v", len(hello), k, h, ref)
			}
			if !bytes.HasPrefix(hello, buf) {
				t.Errorf("%d bytes, %d at a time: what was read is not what came", len(hello), k)
			}
		}
	}
}

func TestHelloLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"64 KiB":          {long("x.example.com", 64<<10-200), nil},
		"more":            {long("x.example.com", 64<<10+1), errTooLarge},
		"a long promise":  {[]byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, errTooLarge},
		"padded records":  {rewrap(long("x.example.com", 30000), 1), errTooLarge},
		"empty record":    {[]byte{22, 3, 1, 0, 0}, errMalformed},
		"huge record":     {[]byte{22, 3, 1, 0x40, 1}, errMalformed},
		"other handshake": {[]byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, errMalformed},
		"other record":    {[]byte{22, 3, 1, 0, 1, 1, 23, 3, 3, 0, 1, 0}, errMalformed},
		"SSL 2":           {[]byte{0x80, 46, 1, 3, 0}, errNotTLS},
		"HTTP":            {[]byte("GET / HTTP/1.1\r\n\r\n"), errNotTLS},
		"two names":       {raw(sni("a.example.com"), sni("b.example.com")), errMalformed},
		"empty name":      {raw(sni("")), errMalformed},
		"extensions cut":  {raw([]byte{0, 9, 0, 9}), errMalformed},
		"name list cut":   {raw(ext(extServerName, []byte{0, 9, 0, 0, 3, 'a'})), errMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, ref := readHello(tc.in, 4096)
			switch {
			case tc.want == nil && ref != nil:
				t.Errorf("refused: %v", ref)
			case tc.want == errNotTLS && (ref == nil || ref.result != NoTLS):
				t.Errorf("%v, want no TLS", ref)
			case tc.want != nil && tc.want != errNotTLS && (ref == nil || !errors.Is(ref.cause, tc.want)):
				t.Errorf("%v, want %v", ref, tc.want)
			}
		})
	}
}

func TestHelloFields(t *testing.T) {
	h, _, ref := readHello(helloOf(t, &tls.Config{ServerName: "a.b", NextProtos: []string{"x", "postgresql"}}), 4096)
	if ref != nil || h.name != "a.b" {
		t.Errorf("%+v, %v", h, ref)
	}
	h, _, ref = readHello(helloOf(t, &tls.Config{MaxVersion: tls.VersionTLS12}), 4096)
	if ref != nil || h.name != "" {
		t.Errorf("%+v, %v", h, ref)
	}
	// Without extensions at all: TLS 1.0's form.
	if h, _, ref = readHello([]byte("\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01"+strings.Repeat("r", 32)+"\x00\x00\x02\x00\x2f\x01\x00"), 4096); ref != nil || h.name != "" {
		t.Errorf("%+v, %v", h, ref)
	}
}

func TestA26NamesCompare(t *testing.T) {
	for _, n := range []string{"db.example.com", "DB.Example.COM", "db.example.com.", "Db.eXample.com."} {
		h, _, ref := readHello(raw(sni(n)), 4096)
		if ref != nil || normal(h.name) != "db.example.com" {
			t.Errorf("%q: %+v, %v", n, h, ref)
		}
	}
}

// asCryptoTLS is what crypto/tls makes of the same bytes; ok: it got as far as
// to ask for a config.
func asCryptoTLS(in []byte) (name string, ok bool) {
	stop := errors.New("stop")
	s := tls.Server(&recorder{in: bytes.NewReader(in)}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, ok = h.ServerName, true
			return nil, stop
		},
	})
	_ = s.Handshake()
	return name, ok
}

// Whatever comes: no panic; what crypto/tls takes for a ClientHello is one here
// too, with the same name; nothing that was read is lost; and how the bytes
// are cut changes nothing.
func FuzzHello(f *testing.F) {
	for _, cfg := range []*tls.Config{
		{ServerName: "db.example.com"},
		{ServerName: "a.b", NextProtos: []string{"postgresql"}},
		{ServerName: "x.y", MaxVersion: tls.VersionTLS12},
		{MinVersion: tls.VersionTLS13},
	} {
		h := helloOf(f, cfg)
		f.Add(h, uint16(3))
		f.Add(rewrap(h, 50), uint16(60))
	}
	f.Add(raw(sni("dot.example.com.")), uint16(1000))
	f.Add(raw(sni("10.0.0.1"), ext(0x0a0a, nil), ext(43, []byte{4, 0x7a, 0x7a, 3, 4})), uint16(9))
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		h, buf, ref := readHello(in, 1<<20)
		if (h == nil) == (ref == nil) {
			t.Fatalf("%v and %v", h, ref)
		}
		if !bytes.HasPrefix(in, buf) {
			t.Fatal("what was read is not what came")
		}
		again, _, refAgain := readHello(in, int(cut%2000)+1)
		if (h == nil) != (again == nil) || h != nil && h.name != again.name || ref != nil && refAgain.result != ref.result {
			t.Fatalf("in pieces: %+v %v, at once: %+v %v", again, refAgain, h, ref)
		}
		name, ok := asCryptoTLS(in)
		if !ok {
			return
		}
		if h == nil {
			t.Fatalf("crypto/tls reads a ClientHello for %q, here it is %v", name, ref)
		}
		if h.name != name {
			t.Fatalf("name %q, crypto/tls has %q", h.name, name)
		}
	})
}

func BenchmarkHello(b *testing.B) {
	in := helloOf(b, &tls.Config{ServerName: "db.example.com"})
	b.Run("here", func(b *testing.B) {
		for b.Loop() {
			if _, _, ref := readHello(in, 1<<20); ref != nil {
				b.Fatal(ref)
			}
		}
	})
	b.Run("crypto-tls", func(b *testing.B) {
		for b.Loop() {
			if _, ok := asCryptoTLS(in); !ok {
				b.Fatal("no hello")
			}
		}
	})
}
