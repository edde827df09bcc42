// SPDX-License-Identifier: Apache-2.0

package load

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func serve(t *testing.T) (s *Server, tcp, udp netip.AddrPort) {
	t.Helper()
	s, err := Listen(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.ServeTCP() }()
	go func() { _ = s.ServeUDP() }()
	at := func(fd int) netip.AddrPort {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet6).Port))
	}
	return s, at(s.tcp), at(s.udp)
}

func TestRequests(t *testing.T) {
	_, tcp, _ := serve(t)
	for name, r := range map[string]Requests{
		"keep-alive": {To: tcp, Conns: 8, For: 50 * time.Millisecond},
		"close":      {To: tcp, Conns: 8, Close: true, For: 50 * time.Millisecond},
		"ping-pong":  {To: tcp, Conns: 1, Each: true, For: 50 * time.Millisecond},
	} {
		got, err := r.Run()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Done < 10 || got.Failed > 0 || got.PerSecond() < 1 {
			t.Errorf("%s: %+v", name, got)
		}
		if r.Each && (got.Median <= 0 || got.P99 < got.Median) {
			t.Errorf("%s: median %v, 99th percentile %v", name, got.Median, got.P99)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	if _, err := (Requests{To: netip.MustParseAddrPort("127.0.0.1:1"), Conns: 4, For: time.Minute}).Run(); err == nil {
		t.Error("no error")
	}
}

func TestDatagrams(t *testing.T) {
	s, _, udp := serve(t)
	got, err := Datagrams(udp, 4, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for s.Datagrams() < got.Done/2 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if s.Datagrams() == 0 || got.Done == 0 {
		t.Errorf("%d of %d datagrams came", s.Datagrams(), got.Done)
	}
}
