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

// The very first datagram to a replica arrives: nobody sends it again.
func TestFirstDatagramArrives(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "netns"), 0o700); err != nil {
		t.Fatal(err)
	}
	rec := record{Addr4: netip.MustParseAddr("10.231.0.2"), Gateway4: netip.MustParseAddr("10.231.0.1")}
	p := paths{link: "fl-first", netns: filepath.Join(dir, "netns", "first")}
	lost := 0
	for range 50 {
		if err := connect(rec, p); err != nil {
			t.Fatal(err)
		}
		var got net.PacketConn
		err := within(p.netns, func() (err error) {
			got, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp4", ":9")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("udp4", "10.231.0.2:9")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("first")); err != nil {
			t.Fatal(err)
		}
		_ = got.SetReadDeadline(time.Now().Add(time.Second)) // it is there, or never comes
		if _, _, err := got.ReadFrom(make([]byte, 8)); err != nil {
			lost++
		}
		_ = c.Close()
		_ = got.Close()
		if _, err := teardown(p); err != nil {
			t.Fatal(err)
		}
	}
	if lost > 0 {
		t.Errorf("%d of 50 were lost", lost)
	}
}
