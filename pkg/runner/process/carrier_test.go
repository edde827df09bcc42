// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The very first datagram to a replica arrives, and its answer: nobody sends it again.
func TestFirstDatagramArrives(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "netns"), 0o700); err != nil {
		t.Fatal(err)
	}
	rec := record{
		Addr4: netip.MustParseAddr("10.231.0.2"), Gateway4: netip.MustParseAddr("10.231.0.1"),
		Addr6: netip.MustParseAddr("fd00:231::2"), Gateway6: netip.MustParseAddr("fd00:231::1"),
	}
	p := paths{link: "fl-first", netns: filepath.Join(dir, "netns", "first")}
	lost := map[netip.Addr]int{}
	for i := range 100 {
		if err := connect(rec, p); err != nil {
			t.Fatal(err)
		}
		to := []netip.Addr{rec.Addr4, rec.Addr6}[i%2]
		if err := first(p.netns, to); err != nil {
			lost[to]++
		}
		if _, err := teardown(p); err != nil {
			t.Fatal(err)
		}
	}
	if len(lost) > 0 {
		t.Errorf("lost of 50 each: %v", lost)
	}
}

// first sends a datagram into a namespace and has it answered.
func first(netns string, to netip.Addr) error {
	var there net.PacketConn
	err := within(netns, func() (err error) {
		there, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp", ":9")
		return err
	})
	if err != nil {
		return err
	}
	defer there.Close()
	here, err := net.Dial("udp", netip.AddrPortFrom(to, 9).String())
	if err != nil {
		return err
	}
	defer here.Close()
	if _, err := here.Write([]byte("first")); err != nil {
		return err
	}
	soon := time.Now().Add(time.Second) // it is there, or never comes
	_, _ = there.SetReadDeadline(soon), here.SetReadDeadline(soon)
	b := make([]byte, 8)
	n, from, err := there.ReadFrom(b)
	if err != nil {
		return err
	}
	if _, err := there.WriteTo(b[:n], from); err != nil {
		return err
	}
	_, err = here.Read(b)
	return err
}
