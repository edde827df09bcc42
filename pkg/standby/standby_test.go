// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ reconcile.Target = (*Target)(nil)

var loopback = netip.MustParseAddr("127.0.0.1")

type nothing struct{}

func (nothing) Close() error { return nil }

// world is a Target whose listener is reached by its own address: what leads
// connections to it is proved in test/netns.
type world struct {
	*Target
	at    netip.AddrPort // of the listener
	owned []netip.Addr
	udp   netip.AddrPort // of the socket for datagrams
	wake  atomic.Value   // of waker

	replay atomic.Value // of replayer
	places atomic.Int64 // that are taken
}

type replayer func(frame []byte, ifindex uint32) (out []byte, held bool, err error)

type waker func(context.Context) ([]model.Backend, error)

type place struct{ *world }

func (p place) Wait(ctx context.Context) ([]model.Backend, error) { return p.wake.Load().(waker)(ctx) }
func (p place) Leave()                                            { p.places.Add(-1) }

func newWorld(t *testing.T, replica uint16) *world {
	t.Helper()
	w := &world{}
	target, err := New(Config{
		Listen: func(tcp, udp [2]syscall.Conn) (io.Closer, error) {
			w.at = tcp[0].(*net.TCPListener).Addr().(*net.TCPAddr).AddrPort()
			w.udp = udp[0].(*net.UDPConn).LocalAddr().(*net.UDPAddr).AddrPort()
			return nothing{}, nil
		},
		Replay: func(frame []byte, ifindex uint32) ([]byte, bool, error) {
			return w.replay.Load().(replayer)(frame, ifindex)
		},
		Own:   func(addrs []netip.Addr) error { w.owned = slices.Clone(addrs); return nil },
		Enter: func(model.ServiceName, string, string) (Place, error) { w.places.Add(1); return place{w}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	w.Target = target
	w.apply(t, 1, replica) // to have a listener
	w.apply(t, w.at.Port(), replica)
	return w
}

func (w *world) apply(t *testing.T, port, replica uint16) {
	t.Helper()
	svc := &model.Service{
		Name: model.ServiceName{Project: "p", User: "u"}, VIP4: loopback, Sleep: model.Asleep,
		Ports: []model.Port{{Service: port, Container: replica, Protocol: model.TCP}, {Service: port, Container: replica, Protocol: model.UDP}},
	}
	if err := w.Apply(t.Context(), &model.State{Services: []*model.Service{svc}}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", w.at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// ask connects and waits for an answer; a reset may come before either is done.
func (w *world) ask(t *testing.T) error {
	t.Helper()
	c, err := net.Dial("tcp", w.at.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return err
}

// A connection is held until the service is awake, whoever speaks first, and
// half-closes pass.
func TestHeldAndLedOn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "hello ")
		_, _ = io.Copy(c, c)
	}()
	w := newWorld(t, l.Addr().(*net.TCPAddr).AddrPort().Port())
	awake := make(chan struct{})
	w.wake.Store(waker(func(context.Context) ([]model.Backend, error) {
		<-awake
		return []model.Backend{{Addr4: loopback}}, nil
	}))
	c := w.dial(t)
	if _, err := io.WriteString(c, "sent while it sleeps"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); w.Counts().Waiting != 1 || w.Counts().Pending != 20 || len(w.Connections()) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("held: %+v, %+v", w.Counts(), w.Connections())
		}
	}
	if x := w.Connections()[0]; x.Joined || x.Client != c.LocalAddr().(*net.TCPAddr).AddrPort() || x.Port != w.at.Port() || time.Since(x.Since) > time.Minute {
		t.Errorf("held: %+v", x)
	}
	close(awake)
	got, err := io.ReadAll(c)
	if err != nil || string(got) != "hello sent while it sleeps" {
		t.Errorf("%q, %v", got, err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // the Pump tells of the end a moment later
		want := Counts{Passed: 1, BytesIn: 20, BytesOut: 26}
		if n := w.Counts(); n == want && len(w.Connections()) == 0 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("counts: %+v, want %+v; %+v", n, want, w.Connections())
		}
	}
	if !slices.Equal(w.owned, []netip.Addr{loopback}) {
		t.Errorf("owned: %v", w.owned)
	}
}

// A connection to a service that does not wake is reset, not ended in order: an
// empty answer would be a lie.
func TestNotWoken(t *testing.T) {
	w := newWorld(t, 9)
	for name, wake := range map[string]waker{
		"no start":       func(context.Context) ([]model.Backend, error) { return nil, errors.New("exit status 1") },
		"no address":     func(context.Context) ([]model.Backend, error) { return []model.Backend{{}}, nil },
		"nobody answers": func(context.Context) ([]model.Backend, error) { return []model.Backend{{Addr4: loopback}}, nil },
	} {
		w.wake.Store(wake)
		if err := w.ask(t); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
	}
	if n := w.Counts(); n.Failed != 3 || len(w.Connections()) != 0 {
		t.Errorf("counts: %+v, %+v", n, w.Connections())
	}
	if err := w.Apply(t.Context(), &model.State{}); err != nil || len(w.owned) != 0 {
		t.Errorf("without sleepers: %v, owned %v", err, w.owned)
	}
	w.wake.Store(waker(func(context.Context) ([]model.Backend, error) {
		t.Error("nobody's address wakes")
		return nil, nil
	}))
	if err := w.ask(t); err == nil {
		t.Error("a connection to nobody's address got an answer")
	}
}
