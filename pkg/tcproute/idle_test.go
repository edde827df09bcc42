// SPDX-License-Identifier: Apache-2.0

package tcproute

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"github.com/fairlead-lb/fairlead/pkg/conn"
)

const idleClients = "FAIRLEAD_TCPROUTE_IDLE"

// playIdle is a process of idle clients: it connects, talks once, says so and
// waits for the end of its stdin.
func playIdle(addr string) error {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	for range n {
		c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "a.b", InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := io.WriteString(c, "PING\r\n"); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 6)); err != nil {
			return err
		}
	}
	fmt.Println("idle")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// echo is a replica that takes no memory of note: it reads byte by byte.
func echo(b *testing.B) (net.Listener, *conn.Pump) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	pump, err := conn.NewPump(conn.PumpConfig{})
	must(b, err)
	b.Cleanup(func() { _ = l.Close(); pump.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// Whatever is read is written to where it came from.
			f, err := c.(*net.TCPConn).File()
			if err != nil {
				return
			}
			twin, err := net.FileConn(f)
			_ = f.Close()
			if err != nil {
				return
			}
			_, _ = pump.Start(c.(*net.TCPConn), twin.(*net.TCPConn), func(conn.Moved) {})
		}
	}()
	return l, pump
}

// BenchmarkIdleTerminated is the memory of idle connections whose TLS ends
// here, beside that of crypto/tls alone with one goroutine each, which is the
// least that can be had with it.
func BenchmarkIdleTerminated(b *testing.B) {
	const n = 1000
	measure := func(b *testing.B, addr string) {
		var before, after runtime.MemStats
		for b.Loop() {
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&before)
			cmd := exec.Command(os.Args[0], strconv.Itoa(n))
			cmd.Env = append(os.Environ(), idleClients+"="+addr)
			cmd.Stderr = os.Stderr
			in, err := cmd.StdinPipe()
			must(b, err)
			out, err := cmd.StdoutPipe()
			must(b, err)
			must(b, cmd.Start())
			_, err = bufio.NewReader(out).ReadString('\n')
			must(b, err)
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/n, "B/conn-at-once")
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/conn")
			b.ReportMetric(float64(after.StackInuse-before.StackInuse)/n, "stack-B/conn")
			must(b, in.Close())
			must(b, cmd.Wait())
		}
	}
	b.Run("router", func(b *testing.B) {
		l, _ := echo(b)
		w := newWorld(b, nil)
		w.certs.Put("a.b", w.ca.issue(b, "a.b"))
		at := l.Addr().(*net.TCPAddr).AddrPort()
		w.apply(at.Port(), service(Redis, "a.b", "terminate", backend(&server{addr: at})))
		measure(b, w.Addr(Redis).String())
		eventually(b, "the sessions end", func() bool { return w.flows.count() == 0 })
	})
	b.Run("crypto-tls", func(b *testing.B) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(b, err)
		defer l.Close()
		cert := newAuthority(b).issue(b, "a.b")
		cfg := &tls.Config{Certificates: []tls.Certificate{cert}}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					t, one := tls.Server(c, cfg), make([]byte, 6)
					for {
						if _, err := io.ReadFull(t, one); err != nil {
							return
						}
						if _, err := t.Write(one); err != nil {
							return
						}
					}
				}()
			}
		}()
		measure(b, l.Addr().String())
	})
}
