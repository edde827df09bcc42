// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// BenchmarkConnect is a whole connection: ClientHello, replica, answer, end.
// Client and replica are in the figure.
func BenchmarkConnect(b *testing.B) {
	w := newWorld(b, nil)
	hello := helloOf(b, &tls.Config{ServerName: "a.b"})
	s := serve(b, "127.0.0.2", "one", 0, func(c net.Conn) (net.Conn, error) {
		_, err := io.ReadFull(c, make([]byte, len(hello)))
		return c, err
	})
	w.apply(s.addr.Port(), service(Redis, "a.b", "passthrough", backend(s)))
	addr := w.Addr(Redis).String()
	line := make([]byte, 4)
	for b.Loop() {
		c, err := net.Dial("tcp", addr)
		must(b, err)
		_, err = c.Write(hello)
		must(b, err)
		_, err = io.ReadFull(c, line)
		must(b, err)
		_ = c.Close()
	}
}
