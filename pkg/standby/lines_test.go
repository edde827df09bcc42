// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

func service(i int) model.ServiceName {
	return model.ServiceName{Project: "p", User: fmt.Sprintf("u%d", i)}
}

// Row W02: when all places are taken, the longest line gives up its last for
// who comes to a shorter one, and nobody else does.
func TestW02LongestLineGivesWay(t *testing.T) {
	stay := make(chan struct{})
	l := lines{most: 6, by: map[model.ServiceName][]held{}, serve: func(model.ServiceName) { <-stay }}
	defer l.wg.Wait()
	defer close(stay)
	add := func(i int, port uint16) (refused uint16) {
		if h := l.add(service(i), held{port: port}); h != nil {
			return h.port
		}
		return 0
	}
	for port := range uint16(6) {
		if r := add(1, 100+port); r != 0 {
			t.Fatalf("%d was refused with %d of 6 places taken", r, port)
		}
	}
	for i, want := range []struct {
		service       int
		port, refused uint16
	}{
		{1, 106, 106}, {2, 200, 105}, {2, 201, 104}, {3, 300, 103},
	} {
		if r := add(want.service, want.port); r != want.refused {
			t.Errorf("newcomer %d: %d was refused, want %d", i, r, want.refused)
		}
	}
	if n := l.waiting(); n != 6 {
		t.Errorf("%d wait, want 6", n)
	}
	for port := uint16(100); port < 103; port++ { // in the order they came
		h, ok := l.first(service(1))
		if !ok || h.port != port {
			t.Errorf("first is %d, want %d", h.port, port)
		}
		l.next(service(1))
	}
	if _, ok := l.first(service(1)); ok || l.waiting() != 3 {
		t.Errorf("the line is not over: %d wait", l.waiting())
	}
}

// Row W02: a stuck service keeps nobody of another one waiting, and of several
// that wake at once each has its turn.
func TestW02LinesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const services, each = 5, 100
		order := make(chan int, services*each)
		var l lines
		l = lines{most: 1 << 20, by: map[model.ServiceName][]held{}, serve: func(name model.ServiceName) {
			if name == service(0) {
				time.Sleep(time.Hour) // its replica takes no connection
			}
			for {
				h, ok := l.first(name)
				if !ok {
					return
				}
				time.Sleep(time.Millisecond) // a dial
				order <- int(h.port)
				l.next(name)
			}
		}}
		for range each {
			for i := range services {
				l.add(service(i), held{port: uint16(i)})
			}
		}
		served := [services]int{}
		for range (services - 1) * each {
			served[<-order]++
			for i := 1; i < services; i++ {
				if lead := served[1] - served[i]; lead > 1 || lead < -1 {
					t.Fatalf("served so far: %v", served)
				}
			}
		}
		if served[0] != 0 {
			t.Errorf("the stuck one was served: %v", served)
		}
		l.wg.Wait()
	})
}

// Row W02: connections reach the replica in the order they came; what a client
// sends meanwhile is bounded, and none of it is lost.
func TestW02InOrderAndBounded(t *testing.T) {
	const clients, size = 20, 4 << 20
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld(t, l.Addr().(*net.TCPAddr).AddrPort().Port())
	awake := make(chan struct{})
	w.wake.Store(waker(func(context.Context) ([]model.Backend, error) {
		<-awake
		return []model.Backend{{Addr4: loopback}}, nil
	}))
	sent := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	for i := range clients {
		c := w.dial(t)
		until(t, func() bool { return w.Counts().Waiting == i+1 })
		go func() {
			_, _ = c.Write([]byte{byte(i)})
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
	}
	until(t, func() bool { return w.Counts().Pending > clients*32<<10 })
	before := int64(-1)
	until(t, func() bool { // no more comes
		now := w.Counts().Pending
		defer func() { before = now }()
		time.Sleep(20 * time.Millisecond)
		return now == before
	})
	if each := before / clients; each > 256<<10 {
		t.Errorf("a held connection holds %d bytes", each)
	}
	t.Logf("%d bytes each are held", before/clients)
	close(awake)
	for i := range clients {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		_ = c.Close()
		if err != nil || len(got) != 1+size || got[0] != byte(i) || !bytes.Equal(got[1:], sent) {
			t.Fatalf("connection %d: %d bytes, of client %d, %v", i, len(got), got[0], err)
		}
	}
}

// until polls.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 20 s")
		}
	}
}

// A client that has reset its connection has no connection made for it.
func TestGone(t *testing.T) {
	w := newWorld(t, 9)
	awake := make(chan struct{})
	w.wake.Store(waker(func(context.Context) ([]model.Backend, error) {
		<-awake
		return []model.Backend{{Addr4: loopback}}, nil
	}))
	c := w.dial(t)
	until(t, func() bool { return w.Counts().Waiting == 1 })
	_ = c.SetLinger(0)
	_ = c.Close()
	close(awake)
	until(t, func() bool { return w.Counts().Gone == 1 })
	if n := w.Counts(); n.Passed+n.Failed != 0 || n.Waiting != 0 {
		t.Errorf("counts: %+v", n)
	}
}
