// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type nothing struct{}

func (nothing) Close() error { return nil }

// ear is one that hears what the test says.
func ear(t *testing.T) (e *Ear, say func(Heard)) {
	t.Helper()
	e = &Ear{}
	stop, err := e.Open(t.TempDir(), func(_ string, notify func(Heard)) (io.Closer, error) {
		say = notify
		return nothing{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return e, say
}

// await begins to wait for a replica of this process, and returns how often it
// was said to be ready, and the outcome once there is one.
func await(t *testing.T, e *Ear, s Start) (ready *atomic.Int32, done chan bool) {
	t.Helper()
	ready, done = new(atomic.Int32), make(chan bool, 1)
	s.PID, s.Now, s.Since = os.Getpid(), time.Now, time.Now()
	if s.Tell == nil {
		s.Tell = func(string) {}
	}
	s.Ready = func() bool { ready.Add(1); return false }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, ok := e.Await(ctx, s)
		done <- ok
	}()
	t.Cleanup(func() { cancel(); <-ended })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		e.mu.Lock()
		n := len(e.waiting)
		e.mu.Unlock()
		if n > 0 || time.Now().After(end) {
			return ready, done
		}
	}
}

// Row W08: what a replica listens on makes it ready within the call that tells
// of it; what others do, or what nobody outside could reach, does not.
func TestW08HeardIsReady(t *testing.T) {
	e, say := ear(t)
	own := netip.MustParseAddr("10.66.0.2")
	at := func(addr string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
	}
	tcp := Start{Netns: 7, Replica: Replica{Addrs: []netip.Addr{own}, Ports: []Port{{Number: 1}, {Number: 53, UDP: true}}}}
	udp := Start{Netns: 8, Replica: Replica{Addrs: []netip.Addr{own}, Ports: []Port{{Number: 53, UDP: true}}}}
	for name, tc := range map[string]struct {
		s     Start
		wrong []Heard
		right Heard
	}{
		"tcp": {tcp, []Heard{
			{9, at("0.0.0.0", 1), false},
			{7, at("0.0.0.0", 2), false},
			{7, at("127.0.0.1", 1), false},
			{7, at("10.66.0.9", 1), false},
			{7, at("0.0.0.0", 53), true},
			{0, at("0.0.0.0", 1), false},
		}, Heard{7, at("::", 1), false}},
		"udp": {udp, []Heard{{8, at("0.0.0.0", 53), false}, {8, at("127.0.0.1", 53), true}}, Heard{8, at("10.66.0.2", 53), true}},
	} {
		ready, done := await(t, e, tc.s)
		for _, h := range tc.wrong {
			if say(h); ready.Load() != 0 {
				t.Errorf("%s: ready by %+v", name, h)
			}
		}
		if say(tc.right); ready.Load() != 1 {
			t.Errorf("%s: not ready by %+v", name, tc.right)
		}
		say(tc.right)
		if !<-done || ready.Load() != 1 {
			t.Errorf("%s: said to be ready %d times", name, ready.Load())
		}
		if say(tc.right); ready.Load() != 1 {
			t.Errorf("%s: ready once more, after Await", name)
		}
	}
}

// Row W08: those who waited for a replica go on before the news of it goes round,
// which begins at once if nobody waited.
func TestW08WaitersFirst(t *testing.T) {
	for _, awaited := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e, say := ear(t)
			heard := false
			var returned atomic.Bool
			s := Start{
				Netns: 7, Replica: Replica{PID: os.Getpid(), Ports: []Port{{Number: 1, UDP: true}}},
				Since: time.Now(), Now: time.Now, Tell: func(string) {}, Ready: func() bool { heard = true; return awaited },
			}
			go func() {
				_, ready := e.Await(t.Context(), s)
				returned.Store(ready)
			}()
			synctest.Wait()
			say(Heard{7, netip.MustParseAddrPort("0.0.0.0:1"), true})
			synctest.Wait()
			if !heard || returned.Load() == awaited {
				t.Errorf("awaited %v: at once heard of %v, Await returned %v", awaited, heard, returned.Load())
			}
			time.Sleep(newsTime)
			synctest.Wait()
			if !returned.Load() {
				t.Errorf("awaited %v: Await has not returned", awaited)
			}
		})
	}
}

// Where nobody says whose listen it was, all that start are looked at at once,
// and not before the next look is due.
func TestW08HeardOfSomebody(t *testing.T) {
	for name, cookie := range map[string][2]uint64{"no cookie": {0, 0}, "replica unknown": {0, 7}} {
		e, say := ear(t)
		l, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).AddrPort().Port()
		_ = l.Close()
		told := make(chan struct{}, 100)
		ready, done := await(t, e, Start{
			Netns: cookie[0], Tell: func(string) { told <- struct{}{} },
			Replica: Replica{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []Port{{Number: port}}},
		})
		<-told // the look at the beginning
		if l, err = net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", port)); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		say(Heard{Netns: cookie[1], At: netip.AddrPortFrom(netip.IPv4Unspecified(), port)})
		if !<-done || ready.Load() != 1 {
			t.Errorf("%s: not ready", name)
		}
		t.Logf("%s: ready after %s", name, time.Since(begun))
		_ = l.Close()
	}
}

// Row D05: only an answer to HEAD / without an error makes it ready.
func TestD05Head(t *testing.T) {
	var status atomic.Int32
	var asked atomic.Int32
	status.Store(http.StatusServiceUnavailable)
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodHead || q.URL.Path != "/" {
			t.Errorf("asked %s %s", q.Method, q.URL)
		}
		asked.Add(1)
		if at := int(status.Load()); at < 400 {
			w.Header().Set("Location", "https://elsewhere.example.test/")
		}
		w.WriteHeader(int(status.Load()))
	})}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	e, say := ear(t)
	why := make(chan string, 100)
	ready, done := await(t, e, Start{
		Netns: 7, Head: true, Tell: func(w string) { why <- w },
		Replica: Replica{Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []Port{{Number: port}}},
	})
	if w := <-why; !strings.Contains(w, "answers HEAD / on 127.0.0.1:") || !strings.Contains(w, "503") {
		t.Errorf("why not: %q", w)
	}
	say(Heard{Netns: 7, At: netip.AddrPortFrom(netip.IPv4Unspecified(), port)})
	status.Store(http.StatusNotFound)
	for asked.Load() < 3 {
		<-why
	}
	if ready.Load() != 0 {
		t.Error("ready although every answer was an error")
	}
	status.Store(http.StatusFound)
	if !<-done || ready.Load() != 1 {
		t.Error("not ready by a redirect")
	}
}

// What is not HTTP, and what does not answer, is told in words.
func TestD05NoHTTP(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"closes":  func(c net.Conn) { _ = c.Close() },
		"garbage": func(c net.Conn) { _, _ = io.WriteString(c, "220 mail\r\n"); _ = c.Close() },
		"endless": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for err := error(nil); err == nil; {
				_, err = io.WriteString(c, "X: "+strings.Repeat("y", 1000)+"\r\n")
			}
		},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go serve(c)
			}
		}()
		if why := headOf(t.Context(), l.Addr().(*net.TCPAddr).AddrPort()); !strings.Contains(why, "does not answer HEAD /") {
			t.Errorf("%s: %q", name, why)
		}
		_ = l.Close()
	}
}

func TestSocketsAreCounted(t *testing.T) {
	const text = "sockets: used 16\nTCP: inuse 12 orphan 0 tw 7 alloc 104 mem 60\nUDP: inuse 3 mem 1\n"
	if n := parseInUse(text) + parseInUse("TCP6: inuse 4\nUDP6: inuse 9\n") + parseInUse("TCP: inuse\nTCP: inuse x\n"); n != 16 {
		t.Errorf("counted %d, want 16", n)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n, err := (Replica{PID: os.Getpid()}).Sockets(); err != nil || n < 1 {
		t.Errorf("%d sockets, %v", n, err)
	}
}
