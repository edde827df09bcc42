// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/fairlead-lb/fairlead/pkg/bpf"
)

// tap gets the IPv4 frames with an id that come in by the wire: programs send
// some there themselves.
func tap(t *testing.T) (next func(id uint16, n int) [][]byte) {
	t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(wireIndex)}); err != nil {
		t.Fatal(err)
	}
	tv := unix.NsecToTimeval(int64(2 * time.Second))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		t.Fatal(err)
	}
	return func(id uint16, n int) (frames [][]byte) {
		t.Helper()
		for len(frames) < n {
			buf := make([]byte, 4096)
			k, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				t.Fatalf("%d frames of %d came: %v", len(frames), n, err)
			}
			if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
				continue // the kernel routes what comes in
			}
			if f := buf[:k]; k > 34 && f[12] == 8 && f[13] == 0 && uint16(f[18])<<8|uint16(f[19]) == id {
				frames = append(frames, f)
			}
		}
		return frames
	}
}

// IPv4 packets that do not fit, and may be fragmented, are cut by TC, as they are:
// what comes in again are fragments like any others. XDP leaves them to it.
func TestCutToFit(t *testing.T) {
	const mtu, id = 1300, 4711
	eachMTU(t, func(t *testing.T, p *plane, h hook) {
		narrowWire(p, mtu)
		p.apply(web())
		taken := tap(t)
		whole := func(f frame, payload int) []byte {
			f.id, f.payload = id, bytes.Repeat([]byte("0123456789abcdef"), 700)[:payload]
			return f.bytes(t)
		}
		data := request4()
		data.tcp = ack()
		unsummed := datagram4()
		unsummed.noChecksum = true
		middle := fragments4(whole(datagram4(), 4000), 1480)
		for _, c := range []struct {
			name string
			in   []byte
		}{
			{"just too big", whole(datagram4(), mtu-28+1)},
			{"two", whole(datagram4(), 1400)},
			{"two whole ones", whole(datagram4(), 2*1280-8)},
			{"and a byte", whole(datagram4(), 2*1280-8+1)},
			{"TCP", whole(data, 1400)},
			{"no checksum", whole(unsummed, 1400)},
			{"first fragment", middle[0]},
			{"middle fragment", middle[1]},
		} {
			if h.name == "xdp" {
				if c.name != "middle fragment" { // its first is not known here
					p.expect(h, c.name, c.in, h.pass, nil, "1/handed_to_tc")
				}
				continue
			}
			want := cuts4(c.in, 1280)
			verdict, out, moved := p.run(h.prog(p), bytes.Clone(c.in))
			if verdict != tcRedirect || len(moved) != 0 {
				t.Errorf("%s: verdict %d, counters %v; want %d and none yet", c.name, int32(verdict), moved, tcRedirect)
				continue
			}
			got := append(taken(id, len(want)-1), out)
			for i := range want {
				if !bytes.Equal(got[i], want[i]) {
					t.Errorf("%s: fragment %d of %d\n%s", c.name, i, len(want), cmp.Diff(hex.Dump(want[i]), hex.Dump(got[i])))
				}
			}
			for i, f := range got {
				if verdict, _, moved := p.run(h.prog(p), f); verdict != h.out || fmt.Sprint(moved) != "[1/forwarded]" {
					t.Errorf("%s: fragment %d: verdict %d, counters %v", c.name, i, int32(verdict), moved)
				}
			}
		}
	})
}

// cuts4 is fragments4 of what may be a fragment itself.
func cuts4(whole []byte, size int) [][]byte {
	out := fragments4(whole, size)
	for i, f := range out {
		at := int(whole[20]&0x1f)<<8 + int(whole[21]) + i*size/8
		more := whole[20]&0x20 | f[20]&0x20
		f[20], f[21] = more|byte(at>>8), byte(at)
		checksum4(f)
	}
	return out
}

// What has headers that nothing is answered to is not cut either.
func TestTooBigToCut(t *testing.T) {
	const mtu = 1300
	p := newSizedPlane(t, bpf.Config{Services: 64, Backends: 64, Slots: 1 << 16, Flows: 1 << 12, Embryos: 1 << 12, HashSeed: 7})
	narrowWire(p, mtu)
	p.apply(web())
	for _, c := range []struct {
		name  string
		in    func(*frame)
		count string
	}{
		{"tagged", func(f *frame) { f.vlans = []uint16{5} }, "[1/unanswerable]"},
		{"with options", func(f *frame) {
			f.options = []layers.IPv4Option{{OptionType: 1}, {OptionType: 1}, {OptionType: 1}, {OptionType: 0}}
		}, "[1/unanswerable]"},
	} {
		f := datagram4()
		f.payload = make([]byte, 1400)
		c.in(&f)
		if verdict, _, moved := p.run(p.objects.Programs().TC, f.bytes(t)); fmt.Sprint(moved) != c.count {
			t.Errorf("%s: verdict %d, counters %v, want %s", c.name, int32(verdict), moved, c.count)
		}
	}
}
