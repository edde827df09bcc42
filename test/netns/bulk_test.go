// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

const bulkPort = 7002

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// TestBulkChecksummed: more than 1 GiB each way arrives byte for byte, with
// segmentation offload where the mode has it.
func TestBulkChecksummed(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		// XDP on veth has no offloads: less, in the same time.
		size := int64(160 << 20)
		if l.Mode.Offloads() {
			size = 1100 << 20
		}
		size /= int64(lab.Slower())
		sums := make(chan uint32, 4) // the replica's: received, sent; 0 for an error
		l.Replicas[0].HandleTCP(t, bulkPort, func(c net.Conn) { bulkServer(c, size, sums) })
		svc := service(l, 20, "shop/bulk", "72", fmt.Sprint(bulkPort), "tcp")
		svc.Backends = lab.Backends(l.Replicas[0])
		l.Start(t, lab.Config{Services: []lab.Service{svc}})
		families(t, func(t *testing.T, f lab.Family) {
			c, err := l.Client.Dial("tcp", netip.AddrPort{}, vip(f, 20, 72), 5*time.Second)
			must(t, err)
			defer c.Close()
			must(t, c.SetDeadline(time.Now().Add(lab.Patience(time.Minute))))
			begun := time.Now()
			sent, err := sendRandom(c, size)
			must(t, err)
			must(t, c.(*net.TCPConn).CloseWrite())
			h := crc32.New(castagnoli)
			got, err := io.CopyBuffer(h, onlyReader{c}, make([]byte, 1<<20))
			must(t, err)
			if there := <-sums; there != sent {
				t.Errorf("the replica received other bytes than were sent: crc %08x, wanted %08x", there, sent)
			}
			if back := <-sums; got != size || h.Sum32() != back {
				t.Errorf("received %d bytes with crc %08x, wanted %d with %08x", got, h.Sum32(), size, back)
			}
			t.Logf("%d MiB each way in %v", size>>20, time.Since(begun).Round(time.Millisecond))
		})
	})
}

// bulkServer reads to the end, then sends as much; sums gets both checksums.
func bulkServer(c net.Conn, size int64, sums chan<- uint32) {
	h := crc32.New(castagnoli)
	if _, err := io.CopyBuffer(h, onlyReader{c}, make([]byte, 1<<20)); err != nil {
		h.Reset()
	}
	sums <- h.Sum32()
	sent, _ := sendRandom(c, size) // 0 on an error, which the client sees, too
	sums <- sent
}

// onlyReader hides WriteTo, so that CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }

// sendRandom writes size random bytes and returns their checksum. No chunk
// starts where another did, so that one delivered twice or out of order is
// seen.
func sendRandom(w io.Writer, size int64) (uint32, error) {
	random := make([]byte, 8<<20)
	seed := rand.NewChaCha8([32]byte{7})
	_, _ = seed.Read(random)
	h := crc32.New(castagnoli)
	const chunk = 1 << 20
	for at := int64(0); at < size; {
		from := int(at*7919) % (len(random) - chunk)
		b := random[from : from+int(min(chunk, size-at))]
		_, _ = h.Write(b)
		if _, err := w.Write(b); err != nil {
			return 0, fmt.Errorf("after %d bytes: %w", at, err)
		}
		at += int64(len(b))
	}
	return h.Sum32(), nil
}

// TestIperf: the real thing, both ways, TCP and UDP, both families.
func TestIperf(t *testing.T) {
	lab.Each(t, func(t *testing.T, l *lab.Lab) {
		server := l.Replicas[0].NS.Command(t.Context(), "iperf3", "-s", "-p", "5201")
		must(t, server.Start())
		t.Cleanup(func() {
			_ = server.Process.Kill()
			_ = server.Wait()
		})
		svc := service(l, 21, "shop/iperf", "5201", "5201", "tcp+udp")
		svc.Backends = lab.Backends(l.Replicas[0])
		l.Start(t, lab.Config{Services: []lab.Service{svc}})
		lab.Poll(t, 5*time.Second, func() error {
			if !strings.Contains(l.Replicas[0].NS.Run(t, "ss", "-ltn"), ":5201") {
				return lab.ErrNotYet
			}
			return nil
		})
		families(t, func(t *testing.T, f lab.Family) {
			tcp := []string{"-C", "cubic", "-n", fmt.Sprintf("%dM", 256/lab.Slower())}
			udp := []string{"-u", "-b", fmt.Sprintf("%dk", 8_000/lab.Slower()), "-l", "1200", "-n", "1M"}
			t.Run("tcp up", func(t *testing.T) { iperf(t, l, f, tcp...) })
			t.Run("tcp down", func(t *testing.T) { iperf(t, l, f, append(tcp, "-R")...) })
			t.Run("udp up", func(t *testing.T) { iperfUDP(t, l, f, udp...) })
			t.Run("udp down", func(t *testing.T) { iperfUDP(t, l, f, append(udp, "-R")...) })
		})
	})
}

// iperf wants a sane rate, no more: figures are the benchmarks' business.
func iperf(t *testing.T, l *lab.Lab, f lab.Family, args ...string) {
	t.Helper()
	rate := runIperf(t, l, f, args...).End.Received.Rate / 1e6
	t.Logf("%.0f Mbit/s", rate)
	if want := 50 / float64(lab.Slower()); rate < want {
		t.Errorf("%.1f Mbit/s, wanted at least %.0f", rate, want)
	}
}

// iperfUDP wants little loss. iperf3 sends in bursts when it was kept waiting,
// and a busy machine does not empty the receiver's buffer in time, which holds 92
// of these datagrams: so a rate of which that is a tenth of a second, and the
// best of a few runs. What the receiver's kernel dropped is said.
func iperfUDP(t *testing.T, l *lab.Lab, f lab.Family, args ...string) {
	t.Helper()
	for range 5 {
		udp := runIperf(t, l, f, args...).End.UDP
		t.Logf("%d datagrams, %.1f %% lost", udp.Packets, udp.Lost)
		if udp.Packets > 500 && udp.Lost < 2 {
			return
		}
	}
	t.Errorf("no run of 5 had more than 500 datagrams at a low rate and lost less than 2 %% of them\nclient: %s\nreplica: %s",
		l.Client.Run(t, "grep", "^Udp:", "/proc/net/snmp"), l.Replicas[0].NS.Run(t, "grep", "^Udp", "/proc/net/snmp"))
}

// iperfResult is what the tests read of iperf3 -J.
type iperfResult struct {
	Error string `json:"error"`
	End   struct {
		Received struct {
			Rate float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		UDP struct {
			Packets int     `json:"packets"`
			Lost    float64 `json:"lost_percent"`
		} `json:"sum"`
	} `json:"end"`
}

func runIperf(t *testing.T, l *lab.Lab, f lab.Family, args ...string) iperfResult {
	t.Helper()
	args = append([]string{"-J", "-c", vip(f, 21, 0).Addr().String(), "-p", "5201", "--connect-timeout", "3000"}, args...)
	out, err := l.Client.Try("iperf3", args...)
	var result iperfResult
	if jsonErr := json.NewDecoder(strings.NewReader(out)).Decode(&result); jsonErr != nil || err != nil || result.Error != "" {
		t.Fatalf("iperf3 %s: %v %v %s", strings.Join(args, " "), err, jsonErr, out)
	}
	return result
}
