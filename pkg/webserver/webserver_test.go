// SPDX-License-Identifier: Apache-2.0

package webserver_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/webserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is one under test that tells of the connections it has accepted: the
// kernel resets those that wait for that when a listener is closed. (In a handover
// the successor has it, too.)
type server struct {
	*webserver.Server
	accepted chan struct{}
}

type listener struct {
	net.Listener
	accepted chan struct{}
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		select {
		case l.accepted <- struct{}{}:
		default: // nobody counts any more
		}
	}
	return c, err
}

func start(t *testing.T, h http.HandlerFunc) server {
	t.Helper()
	s := server{accepted: make(chan struct{}, 128)}
	s.Server = webserver.New(webserver.Config{
		Name: "page", Handler: func(string) http.Handler { return h },
		Listen: func(network, address string) (net.Listener, error) {
			l, err := net.Listen(network, address)
			return listener{l, s.accepted}, err
		},
	})
	t.Cleanup(func() { _ = s.Close() })
	if opened, err := s.Serve("127.0.0.1:0"); err != nil || opened == nil {
		t.Fatal(opened, err)
	}
	return s
}

// dial opens a connection that the server has accepted.
func dial(t *testing.T, s server) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	<-s.accepted
	return c, bufio.NewReader(c)
}

// ask sends a request and reads the answer to its end.
func ask(c net.Conn, r *bufio.Reader) error {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(res.Body)
	if string(body) != "ok" {
		return fmt.Errorf("%s %q: %w", res.Status, body, err)
	}
	return err
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

// closed begins to close the server and waits until it accepts nothing more.
func closed(t *testing.T, s server) (done chan struct{}) {
	t.Helper()
	at := s.Addr().String()
	done = make(chan struct{})
	go func() { _ = s.Close(); close(done) }()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("tcp", at)
		if err != nil {
			return done
		}
		_ = c.Close()
		if time.Now().After(end) {
			t.Fatal("still accepts")
		}
	}
}

// TestL08LateRequestIsAnswered: who had connected when the server began to end,
// and asks only then, gets an answer.
func TestL08LateRequestIsAnswered(t *testing.T) {
	s := start(t, ok)
	fresh, r := dial(t, s)
	done := closed(t, s)
	if err := ask(fresh, r); err != nil {
		t.Errorf("a connection from before the end: %v", err)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after its answer: %v, want the end of the connection", err)
	}
	begun := time.Now()
	<-done
	if took := time.Since(begun); took > time.Second {
		t.Errorf("with nothing left to wait for, Close took %s", took)
	}
}

// TestL08EveryConnectionIsAnswered: many ask while the server ends; nobody who
// came in is left without an answer.
func TestL08EveryConnectionIsAnswered(t *testing.T) {
	for range 20 {
		s := start(t, ok)
		var wg sync.WaitGroup
		begin := make(chan struct{})
		errs := make([]error, 64)
		for i := range errs {
			c, r := dial(t, s)
			wg.Go(func() {
				<-begin
				errs[i] = ask(c, r)
			})
		}
		wg.Go(func() { _ = s.Close() })
		close(begin)
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSilentClientHoldsNobodyUp: a client that connects and says nothing, and one
// whose answer takes for ever, are given up.
func TestSilentClientHoldsNobodyUp(t *testing.T) {
	begun, free := make(chan struct{}), make(chan struct{})
	s := start(t, func(http.ResponseWriter, *http.Request) { close(begun); <-free })
	defer close(free)
	dial(t, s)
	slow, _ := dial(t, s)
	if _, err := io.WriteString(slow, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-begun
	select {
	case <-closed(t, s):
	case <-time.After(8 * time.Second):
		t.Error("Close waits for a silent client")
	}
}

// TestAddressFollows: another address, none, one that is taken.
func TestAddressFollows(t *testing.T) {
	s := start(t, ok)
	first := s.Addr().String()
	if again, err := s.Serve("127.0.0.1:0"); again != nil || err != nil {
		t.Errorf("the same again: %v, %v", again, err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Serve(taken.Addr().String())
	if want := "listen.page " + taken.Addr().String() + ": the address is in use by another program"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a taken address: %v", err)
	}
	c, r := dial(t, s) // the old one
	if err := ask(c, r); err != nil || s.Addr().String() != first {
		t.Errorf("the old address does not stay open: %v", err)
	}
	_ = taken.Close()
	if _, err := s.Serve(taken.Addr().String()); err != nil || s.Addr().String() != taken.Addr().String() {
		t.Errorf("free now: %v, %v", s.Addr(), err)
	}
	if _, err := net.Dial("tcp", first); err == nil {
		t.Error("the first address still accepts")
	}
	if opened, err := s.Serve(""); opened != nil || err != nil || s.Addr() != nil {
		t.Errorf("none: %v %v %v", opened, err, s.Addr())
	}
}
