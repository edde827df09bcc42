// SPDX-License-Identifier: Apache-2.0

package standby

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/model"
)

// plane is a data plane for datagrams: it holds them or sends them to a replica on
// loopback, of which the test is the server.
type plane struct {
	mu      sync.Mutex
	asleep  bool
	replica netip.AddrPort
	drops   map[string]bool // by payload
}

// replay puts the replica's address in, as the programs do.
func (p *plane) replay(frame []byte, _ uint32) ([]byte, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ip := frame[etherLen:]
	switch {
	case p.asleep:
		return nil, true, nil
	case p.drops[string(ip[ipv4Len+udpLen:])]:
		return nil, false, errors.New("dropped")
	}
	to := p.replica.Addr().As4()
	copy(ip[16:], to[:])
	binary.BigEndian.PutUint16(ip[ipv4Len+2:], p.replica.Port())
	binary.BigEndian.PutUint16(ip[ipv4Len+6:], 0) // no checksum
	return frame, false, nil
}

// crowded is datagrams in front of a plane, with places that the test opens.
type crowded struct {
	*datagrams
	plane   plane
	server  *net.UDPConn
	ready   chan error // what Wait returns; closed: a replica is ready
	entered atomic.Int64
	left    atomic.Int64
	refuse  atomic.Bool
}

var (
	game    = model.ServiceName{Project: "p", User: "game"}
	gameVIP = netip.MustParseAddrPort("198.18.0.9:53")
)

type seat struct{ *crowded }

func (s seat) Wait(ctx context.Context) ([]model.Backend, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case err := <-s.ready:
		return nil, err
	}
}

func (s seat) Leave() { s.left.Add(1) }

func newCrowded(t *testing.T) *crowded {
	t.Helper()
	c := &crowded{ready: make(chan error)}
	var err error
	if c.server, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	c.plane.replica = c.server.LocalAddr().(*net.UDPAddr).AddrPort()
	ctx, cancel := context.WithCancel(t.Context())
	c.datagrams = newDatagrams(ctx, Config{
		Log: slog.New(slog.DiscardHandler), Replay: c.plane.replay,
		Enter: func(model.ServiceName, string, string) (Place, error) {
			if c.refuse.Load() {
				return nil, errors.New("too many wait")
			}
			c.entered.Add(1)
			return seat{c}, nil
		},
	}, func(at netip.AddrPort) (target, bool) { return target{&model.Service{Name: game}, 9}, at == gameVIP })
	if c.send, err = newSender(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		c.datagrams.close()
		_ = c.server.Close()
		if in, out := c.entered.Load(), c.left.Load(); in != out {
			t.Errorf("%d places taken, %d left", in, out)
		}
	})
	return c
}

// from is a datagram of the n-th client, an address that loopback takes for a
// sender.
func from(n int, data string) datagram {
	return datagram{client: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(n)}), 4000), vip: gameVIP, ifindex: 7, data: []byte(data)}
}

// hear is what the replica gets, with its sender.
func (c *crowded) hear(t *testing.T) string {
	t.Helper()
	b := make([]byte, 2048)
	_ = c.server.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, client, err := c.server.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %s", client, b[:n])
}

func (c *crowded) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// Rows D03, W02: datagrams wait for a replica, and then for the data plane; they
// arrive in their order, from their clients; those that the data plane drops are
// no one's hindrance.
func TestD03DatagramsArriveInOrder(t *testing.T) {
	c := newCrowded(t)
	c.plane.asleep, c.plane.drops = true, map[string]bool{"bad": true}
	var want []string
	for i, say := range []string{"one", "two", "bad", "three", ""} {
		g := from(i%2, say)
		if c.take(g); say != "bad" {
			want = append(want, fmt.Sprintf("%s %s", g.client, say))
		}
	}
	if clients, waiting, bytes := c.counts(); clients != 2 || waiting != 5 || bytes != 14 {
		t.Errorf("%d clients wait with %d datagrams of %d bytes", clients, waiting, bytes)
	}
	close(c.ready)
	c.plane.mu.Lock()
	c.plane.asleep = false
	c.plane.mu.Unlock()
	c.applied()
	var got []string
	for range want {
		got = append(got, c.hear(t))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	c.until(t, "the crowd is gone", func() bool { n, _, _ := c.counts(); return n == 0 })
	if p, d := c.passed.Load(), c.dropped.Load(); p != 4 || d != 1 {
		t.Errorf("%d passed, %d dropped", p, d)
	}
}

// Row W03: the service does not start, or nobody may wait: nothing is kept, and
// what comes later begins anew.
func TestW03DatagramsAreGivenUp(t *testing.T) {
	c := newCrowded(t)
	c.take(from(1, "one"))
	c.take(from(2, "two"))
	c.ready <- errors.New("it does not start")
	c.until(t, "given up", func() bool { return c.dropped.Load() == 2 && c.left.Load() == 2 })
	c.refuse.Store(true)
	c.take(from(1, "one"))
	c.take(datagram{client: from(1, "").client, vip: netip.MustParseAddrPort("198.18.0.9:54")}) // nobody's
	if d := c.dropped.Load(); d != 4 {
		t.Errorf("%d dropped, want 4", d)
	}
	c.refuse.Store(false)
	close(c.ready)
	c.take(from(3, "again"))
	if got := c.hear(t); got != "127.0.1.3:4000 again" {
		t.Errorf("got %q", got)
	}
}

// What is held is bounded by service and over all; the oldest of the service that
// holds most go first.
func TestDatagramsAreBounded(t *testing.T) {
	c := newCrowded(t)
	for i := range mostOfService + 10 {
		c.take(from(1, fmt.Sprint(i)))
	}
	if _, waiting, _ := c.counts(); waiting != mostOfService || c.dropped.Load() != 10 {
		t.Errorf("%d wait, %d dropped", waiting, c.dropped.Load())
	}
	large := bytes.Repeat([]byte("x"), 60_000)
	for i := range 10 {
		g := from(1, "")
		g.data = append(fmt.Appendf(nil, "%d ", i), large...)
		c.take(g)
	}
	if _, waiting, n := c.counts(); n > bytesOfService || waiting != 4 {
		t.Errorf("%d wait with %d bytes, want 4 of at most %d", waiting, n, bytesOfService)
	}
	for i := range 2 * bytesOfAll / bytesOfService {
		other := model.ServiceName{Project: "p", User: fmt.Sprint("other", i)}
		for range 4 {
			g := from(i, "")
			g.data = large
			if !c.add(other, g, nil) {
				c.entered.Add(1)
				c.add(other, g, seat{c})
			}
		}
	}
	if _, waiting, n := c.counts(); n > bytesOfAll || waiting < 100 {
		t.Errorf("%d wait with %d bytes, want at most %d", waiting, n, bytesOfAll)
	}
}

// What was made of a datagram is one to any kernel: loopback takes it, with its
// checksums, odd length and all.
func TestFrameIsADatagram(t *testing.T) {
	for _, tt := range []struct{ name, at, from string }{{"v4", "127.0.0.1:0", "127.0.3.4:999"}, {"v6", "[::1]:0", "[::1]:999"}} {
		t.Run(tt.name, func(t *testing.T) {
			server, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(tt.at)))
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			s, err := newSender()
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			at := server.LocalAddr().(*net.UDPAddr).AddrPort()
			b := make([]byte, 2048)
			for _, data := range []string{"", "o", "odd", "even", string(bytes.Repeat([]byte{0xff}, 1400))} {
				ip, to, err := packetOf(frameOf(netip.MustParseAddrPort(tt.from), at, []byte(data)), gameVIP.Addr())
				if err != nil || to != at.Addr() {
					t.Fatal(to, err)
				}
				if err := s.send(ip, to); err != nil {
					t.Fatal(err)
				}
				_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
				n, client, err := server.ReadFromUDPAddrPort(b)
				if err != nil || string(b[:n]) != data || client.String() != tt.from {
					t.Errorf("%d bytes: got %d of %s, %v", len(data), n, client, err)
				}
			}
			if _, _, err := packetOf(frameOf(netip.MustParseAddrPort(tt.from), at, nil), at.Addr()); !errors.Is(err, errNotTranslated) {
				t.Errorf("still to the virtual IP: %v", err)
			}
		})
	}
	tcp := frameOf(gameVIP, gameVIP, make([]byte, 64))
	tcp[etherLen+9] = unix.IPPROTO_ICMP
	for _, f := range [][]byte{nil, make([]byte, 20), make([]byte, 60), tcp} {
		if _, _, err := packetOf(f, netip.Addr{}); !errors.Is(err, errNotTranslated) {
			t.Errorf("%x: %v", f, err)
		}
	}
}

// A socket that lost its options, or a kernel that tells less.
func TestDestinationIsNotGuessed(t *testing.T) {
	for _, oob := range [][]byte{nil, make([]byte, 16), bytes.Repeat([]byte{0xff}, 64)} {
		if to, ifindex, err := destination(oob); err == nil {
			t.Errorf("%x: %s by %d", oob, to, ifindex)
		}
	}
}

// A session ends with the sleep after it, not with a late state of the one before.
func TestSessionOutlivesItsWake(t *testing.T) {
	c := newCrowded(t)
	replica, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	at := replica.LocalAddr().(*net.UDPAddr).AddrPort()
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	g := datagram{
		client: client.LocalAddr().(*net.UDPAddr).AddrPort(), vip: netip.MustParseAddrPort("127.0.5.5:5353"),
		port: at.Port(), ifindex: loopbackIndex, data: []byte("one"), nap: 3,
	}
	apply := func(sleep model.Sleep, nap uint64) {
		c.local.apply(&model.State{Services: []*model.Service{{Name: game, Sleep: sleep, Nap: nap}}})
	}
	if err := c.local.send(t.Context(), game, g, []model.Backend{{Addr4: at.Addr()}}); err != nil {
		t.Fatal(err)
	}
	apply(model.Asleep, 3) // that it woke from
	apply(model.Awake, 3)
	b := make([]byte, 64)
	_ = replica.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, session, err := replica.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := replica.WriteToUDPAddrPort([]byte("answer"), session); err != nil {
		t.Fatal(err)
	}
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, from, err := client.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != "answer" || from != g.vip {
		t.Fatalf("%q from %s, %v; want the answer from %s", b[:n], from, err, g.vip)
	}
	if c.local.uses()[game] != 1 {
		t.Errorf("uses: %v", c.local.uses())
	}
	apply(model.Asleep, 4)
	if len(c.local.by) != 0 {
		t.Error("the session goes on while the service sleeps")
	}
	c.local.apply(&model.State{})
	if len(c.local.uses()) != 0 {
		t.Error("a service that is gone is counted")
	}
}
