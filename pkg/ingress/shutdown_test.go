// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// kept is Sockets in memory: what the service manager does between two
// processes.
type kept struct {
	mu sync.Mutex
	m  map[string]*os.File
}

// Take gives a duplicate, as the manager does: it keeps its own.
func (k *kept) Take(name string) *os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.m[name]
	if f == nil {
		return nil
	}
	return again(f, name)
}

// again opens a socket a second time.
func again(c syscall.Conn, name string) (out *os.File) {
	raw, err := c.SyscallConn() // Fd would have the socket block
	if err != nil {
		return nil
	}
	_ = raw.Control(func(fd uintptr) {
		if n, err := syscall.Dup(int(fd)); err == nil {
			out = os.NewFile(uintptr(n), name)
		}
	})
	return out
}

func (k *kept) Keep(name string, c syscall.Conn) {
	k.Drop(name)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m[name] = again(c, name)
}

func (k *kept) Drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.m[name]; f != nil {
		_ = f.Close()
		delete(k.m, name)
	}
}

// TestUpgradesUnderLoadLoseNothing: one front after the other takes the same
// port over while clients ask, on connections that stay and on new ones.
func TestUpgradesUnderLoadLoseNothing(t *testing.T) {
	at := backend(t, named("one"))
	address := closedPort(t).String()
	sockets := &kept{m: map[string]*os.File{}}
	defer sockets.Drop("http " + address)
	begin := func() *Target {
		f := New(Config{Sockets: sockets, Log: slog.New(slog.DiscardHandler), Limits: Limits{Tick: 10 * time.Millisecond}})
		svc := on("a", "h", "/", at)
		s := &model.State{Generation: 1, Services: []*model.Service{&svc}}
		s.Settings.Listen.HTTP = address
		if err := f.Apply(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		return f
	}
	now := begin()
	var done atomic.Bool
	var asked atomic.Uint64
	var wg sync.WaitGroup
	client := func(keep bool) error {
		for !done.Load() {
			c, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			_ = c.SetDeadline(time.Now().Add(long))
			r := bufio.NewReader(c)
			for again := true; again; {
				if _, err := io.WriteString(c, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab"); err != nil {
					return err
				}
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					return err
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || string(body) != "one POST /x ab" {
					return fmt.Errorf("%s %q: %w", res.Status, body, err)
				}
				asked.Add(1)
				again = keep && !res.Close && !done.Load()
			}
			_ = c.Close()
		}
		return nil
	}
	for i := range 8 {
		wg.Go(func() {
			if err := client(i%2 == 0); err != nil {
				t.Errorf("after %d requests: %v", asked.Load(), err)
			}
		})
	}
	deadline := time.Now().Add(long)
	for i := range 10 {
		for n := asked.Load(); asked.Load() < n+100 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		var next *Target
		if i%2 == 0 { // before the old one has ended, or after
			next = begin()
		}
		ctx, cancel := context.WithTimeout(t.Context(), long)
		if err := now.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		if next == nil {
			next = begin()
		}
		now = next
	}
	done.Store(true)
	wg.Wait()
	now.Close()
	if n := asked.Load(); n < 1000 {
		t.Errorf("%d requests in all", n)
	}
}

// TestL08FrontThatNeverBeginsAcceptsNobody: one that ends before it may begin, as
// that of a successor that fails does, leaves who waits to its predecessor: also
// in the moment between the two steps of stop.
func TestL08FrontThatNeverBeginsAcceptsNobody(t *testing.T) {
	socket, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	c, err := net.Dial("tcp", socket.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := New(Config{Log: slog.New(slog.DiscardHandler), Begin: make(chan struct{})})
	defer f.Close()
	l := &listener{l: socket, closing: make(chan struct{}), done: make(chan struct{})}
	close(l.closing)
	go f.accept(l)
	select {
	case <-l.done:
	case <-time.After(long):
		t.Error("it waits for connections")
	}
	_ = socket.SetDeadline(time.Now().Add(long))
	waits, err := socket.Accept()
	if err != nil {
		t.Fatalf("it took the connection: %v", err)
	}
	_ = waits.Close()
}

func TestL08ShutdownWaitsForRequestsUpToItsBudget(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	f := newFixture(t, Config{Limits: Limits{Patience: 100 * time.Millisecond}}, on("a", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "done")
	})), sockets(on("ws", "h", "/ws", backend(t, socketBackend(t, echoAll)))))
	addr := f.addr()
	slow := f.dial().send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-begun
	idle := f.dial()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- f.Shutdown(ctx) }()
	idle.ended() // nothing was asked on it
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("a connection is accepted after the begin of the shutdown")
	}
	select {
	case err := <-over:
		t.Fatalf("shut down with a request under way: %v", err)
	default:
	}
	close(release)
	if res, body := slow.response("GET"); body != "done" || !res.Close {
		t.Errorf("%q, close %v", body, res.Close)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// A WebSocket lives through the budget and is then told to go away.
func TestL08WebSocketIsToldAtTheEndOfTheBudget(t *testing.T) {
	replica := make(chan string, 1)
	f := newFixture(t, Config{}, sockets(on("ws", "h", "/", backend(t, socketBackend(t, func(c net.Conn, r *bufio.Reader) {
		b := make([]byte, 7)
		_, _ = io.ReadFull(r, b)
		_, _ = c.Write([]byte{0x81, 1, 'x'})
		rest, _ := io.ReadAll(r)
		replica <- string(rest)
	})))))
	c := f.dial()
	c.upgrade("/", "h")
	// A masked text frame of one byte, and then one more byte: not a boundary
	// of frames for the replica yet.
	c.send("\x81\x81\x00\x00\x00\x00x")
	c.expect("\x81\x01x")
	const budget = 300 * time.Millisecond
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), budget)
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- f.Shutdown(ctx) }()
	c.expect(string(goingAway))
	if took := time.Since(begun); took < budget {
		t.Errorf("told to go away after %s of %s", took, budget)
	}
	if err := <-over; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if got := <-replica; got != string(goingAwayMasked) {
		t.Errorf("the replica read %q", got)
	}
}

func TestFrames(t *testing.T) {
	long := func(n int) string { return string(make([]byte, n)) }
	for _, tt := range []struct {
		in      string
		between bool
	}{
		{"", true},
		{"\x81", false},
		{"\x81\x00", true},
		{"\x81\x01", false},
		{"\x81\x01x", true},
		{"\x81\x81mask", false},
		{"\x81\x81maskx", true},
		{"\x81\x7e\x01\x00" + long(255), false},
		{"\x81\x7e\x01\x00" + long(256), true},
		{"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + long(65536), true},
		{"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + long(65535), false},
		{"\x89\x00\x8a\x00", true},
		{"\x88\x02\x03\xe8", false},
	} {
		for piece := 1; piece < 5; piece++ {
			var f frames
			for b := []byte(tt.in); len(b) > 0; b = b[min(piece, len(b)):] {
				f.follow(b[:min(piece, len(b))])
			}
			if f.between() != tt.between {
				t.Errorf("%.20q in pieces of %d: between frames %v, want %v", tt.in, piece, f.between(), tt.between)
			}
		}
	}
}

func TestShutdownOfHTTP2(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-release
		_, _ = io.WriteString(w, "done")
	})))
	c := f.client2(nil)
	got := make(chan string, 1)
	go func() {
		res, err := c.Get("http://h/")
		if err != nil {
			got <- err.Error()
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		got <- fmt.Sprint(string(b), err)
	}()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	over := make(chan error, 1)
	go func() { over <- f.Shutdown(ctx) }()
	for !f.draining.Load() {
		time.Sleep(time.Millisecond)
	}
	close(release)
	if s := <-got; s != "done<nil>" {
		t.Errorf("%s", s)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestListenersFollowTheState(t *testing.T) {
	f := newFixture(t, Config{})
	if plain, secure := f.Addrs(); plain != nil || secure != nil {
		t.Errorf("listens on %v, %v without a service that asks for HTTP", plain, secure)
	}
	svc := on("a", "h", "/", backend(t, named("one")))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.state.Settings.Listen.HTTP = taken.Addr().String()
	s := &model.State{Generation: 2, Settings: f.state.Settings, Services: []*model.Service{&svc}}
	want := "listen.http " + taken.Addr().String() + ": the address is in use by another program: stop it, or choose another address"
	if err := f.Apply(t.Context(), s); err == nil || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	_ = taken.Close()
	if err := f.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if _, body := f.get("h", "/"); body != "one GET / " {
		t.Errorf("%q", body)
	}
	first := f.addr()
	f.state.Settings.Listen.HTTP = closedPort(t).String()
	f.serve(svc)
	if _, body := f.get("h", "/"); body != "one GET / " || f.addr() == first {
		t.Errorf("%q on %s", body, f.addr())
	}
	if c, err := net.Dial("tcp", first); err == nil {
		_ = c.Close()
		t.Errorf("%s is open still", first)
	}
	// The same port of other addresses, and back.
	_, port, _ := net.SplitHostPort(f.addr())
	for _, host := range []string{"0.0.0.0", "127.0.0.1"} {
		f.state.Settings.Listen.HTTP = net.JoinHostPort(host, port)
		f.serve(svc)
		if any := strings.HasPrefix(f.addr(), "[::]"); any != (host == "0.0.0.0") {
			t.Errorf("on %s, want %s", f.addr(), f.state.Settings.Listen.HTTP)
		}
	}
	f.serve()
	if plain, _ := f.Addrs(); plain != nil {
		t.Errorf("listens on %v", plain)
	}
}

// Listeners move while clients connect: nothing waits for each other.
func TestListenersMoveUnderConnects(t *testing.T) {
	ports := []string{closedPort(t).String(), closedPort(t).String()}
	f := newFixture(t, Config{}, on("a", "h", "/", backend(t, named("one"))))
	var done atomic.Bool
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for !done.Load() {
				if c, err := net.Dial("tcp", ports[i%2]); err == nil {
					_ = c.Close()
				}
			}
		})
	}
	for i := range 40 {
		f.state.Settings.Listen.HTTP = ports[i%2]
		f.apply(f.state.Services)
	}
	done.Store(true)
	wg.Wait()
	if _, body := f.get("h", "/"); body != "one GET / " {
		t.Errorf("%q", body)
	}
}
