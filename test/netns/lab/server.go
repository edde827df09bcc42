// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// Ports that every replica of Serve listens on, both families.
const (
	HTTPPort = 8090 // answers with the replica's name and the client's address
	TCPPort  = 7000 // says Banner, then echoes
	UDPPort  = 7001 // echoes, Banner before the payload
)

// Serve starts the servers of all replicas; they end with the test.
func (l *Lab) Serve(t testing.TB) {
	t.Helper()
	for _, r := range l.Replicas {
		r.ServeHTTP(t, HTTPPort)
		r.ServeTCP(t, TCPPort)
		r.ServeUDP(t, UDPPort)
	}
}

// Listen listens in the replica's namespace until the test ends.
func (r *Replica) Listen(t testing.TB, port int) net.Listener {
	t.Helper()
	var ln net.Listener
	must(t, r.NS.Do(func() (err error) {
		ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	t.Cleanup(func() { ln.Close() })
	return ln
}

// ServeHTTP answers every request with a line: name, client address.
func (r *Replica) ServeHTTP(t testing.TB, port int) {
	t.Helper()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprintln(w, r.banner(req.RemoteAddr))
	})}
	ln := r.Listen(t, port)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

// ServeTCP greets every connection with the banner and echoes what it gets.
func (r *Replica) ServeTCP(t testing.TB, port int) {
	t.Helper()
	r.HandleTCP(t, port, func(c net.Conn) {
		if _, err := fmt.Fprintln(c, r.banner(c.RemoteAddr().String())); err == nil {
			_, _ = io.Copy(c, c)
		}
	})
}

// HandleTCP serves connections with f until the test ends; then all are closed.
func (r *Replica) HandleTCP(t testing.TB, port int, f func(net.Conn)) {
	t.Helper()
	ln := r.Listen(t, port)
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				f(c)
				c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// ServeUDP answers every datagram with the banner, a space and the payload.
func (r *Replica) ServeUDP(t testing.TB, port int) {
	t.Helper()
	var pc net.PacketConn
	must(t, r.NS.Do(func() (err error) {
		// One socket per family would do too; this one answers from the
		// address it was asked on, as it has one address per family.
		pc, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(append([]byte(r.banner(from.String())+" "), buf[:n]...), from)
		}
	}()
	t.Cleanup(func() {
		pc.Close()
		<-done
	})
}

func (r *Replica) banner(client string) string {
	ap, _ := netip.ParseAddrPort(client)
	return r.Name + " " + netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).String()
}

// Answer is what a replica says: who it is and whom it sees.
type Answer struct {
	Replica string
	Client  netip.AddrPort
	Rest    string // UDP: the payload echoed
}

// ParseAnswer reads a banner.
func ParseAnswer(s string) (Answer, error) {
	f := strings.SplitN(strings.TrimSuffix(s, "\n"), " ", 3)
	if len(f) < 2 {
		return Answer{}, fmt.Errorf("answer %q: want a replica's name and the client's address", s)
	}
	ap, err := netip.ParseAddrPort(f[1])
	if err != nil {
		return Answer{}, fmt.Errorf("answer %q: %w", s, err)
	}
	a := Answer{Replica: f[0], Client: ap}
	if len(f) == 3 {
		a.Rest = f[2]
	}
	return a, nil
}

// Conn is a connection to a replica of Serve.
type Conn struct {
	net.Conn
	Answer
	r *bufio.Reader
}

// Open connects to a TCPPort and reads the banner.
func (n *Netns) Open(local, remote netip.AddrPort) (*Conn, error) {
	const timeout = 5 * time.Second
	c, err := n.Dial("tcp", local, remote, timeout)
	if err != nil {
		return nil, err
	}
	conn := &Conn{Conn: c, r: bufio.NewReader(c)}
	_ = c.SetReadDeadline(time.Now().Add(Patience(timeout)))
	line, err := conn.r.ReadString('\n')
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("read banner: %w", err)
	}
	if conn.Answer, err = ParseAnswer(line); err != nil {
		c.Close()
		return nil, err
	}
	return conn, nil
}

// Ping sends a line and waits for its echo.
func (c *Conn) Ping(payload string, timeout time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(Patience(timeout)))
	if _, err := fmt.Fprintln(c.Conn, payload); err != nil {
		return err
	}
	return c.echoed(payload)
}

// Late waits once more for the echo of a line, after Ping gave up.
func (c *Conn) Late(payload string, timeout time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(Patience(timeout)))
	return c.echoed(payload)
}

func (c *Conn) echoed(payload string) error {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return err
	}
	if line != payload+"\n" {
		return fmt.Errorf("echo %q of %q", line, payload)
	}
	return nil
}

// AskUDP sends one datagram and waits for the answer.
func AskUDP(c net.Conn, payload string, timeout time.Duration) (Answer, error) {
	_ = c.SetDeadline(time.Now().Add(Patience(timeout)))
	if _, err := c.Write([]byte(payload)); err != nil {
		return Answer{}, err
	}
	buf := make([]byte, 65536)
	n, err := c.Read(buf)
	if err != nil {
		return Answer{}, err
	}
	return ParseAnswer(string(buf[:n]))
}
