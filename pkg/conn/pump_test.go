// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 30 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pair is the two ends of a TCP connection over loopback.
func pair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	s, err := l.AcceptTCP()
	must(t, err)
	for _, end := range []net.Conn{c, s} {
		must(t, end.SetDeadline(time.Now().Add(patience)))
		t.Cleanup(func() { _ = end.Close() })
	}
	return c.(*net.TCPConn), s
}

// plainPumps has newPump do without io_uring.
var plainPumps bool

// What every pump does, one does that may not use io_uring: before Linux 5.18,
// in most containers.
func TestPumpWithoutRing(t *testing.T) {
	plainPumps = true
	defer func() { plainPumps = false }()
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"everything", TestPumpMovesEverything},
		{"half-close", TestPumpHalfClose},
		{"resets", TestPumpPassesResetsOn},
		{"last words", TestPumpKeepsLastWords},
		{"back pressure", TestPumpBackPressure},
		{"cut", TestPumpCut},
		{"many flows", TestPumpManyFlows},
		{"open", TestOpenBeginsWithTheFirstBytes},
		{"give back", TestOpenGivesBack},
	} {
		t.Run(c.name, c.test)
	}
}

func newPump(t testing.TB) *Pump {
	t.Helper()
	p, err := NewPump(PumpConfig{plain: plainPumps})
	must(t, err)
	t.Cleanup(p.Close)
	return p
}

// joined is a client and a server with the pump between them.
func joined(t testing.TB, p *Pump) (client, server *net.TCPConn, f *Flow, ended chan Moved) {
	t.Helper()
	client, a := pair(t)
	server, b := pair(t)
	ended = make(chan Moved, 1)
	f, err := p.Start(a, b, func(m Moved) { ended <- m })
	must(t, err)
	return client, server, f, ended
}

func wait[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came within", patience)
		panic("unreachable")
	}
}

// noise is bytes that are the same for a seed.
func noise(seed uint64, n int64) io.Reader {
	var key [32]byte
	key[0] = byte(seed)
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// chunks writes noise in pieces of sizes from 1 byte to 100 KiB, then closes
// its side.
func chunks(c *net.TCPConn, seed uint64, n int64) error {
	r, sizes := noise(seed, n), rand.New(rand.NewPCG(seed, 1))
	for {
		size := int64(1 << sizes.IntN(17))
		k, err := io.CopyN(onlyWriter{c}, r, size)
		if errors.Is(err, io.EOF) || k == 0 {
			return c.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}

type onlyWriter struct{ io.Writer }

// slowly reads with pauses of the scheduler, so that buffers fill.
type slowly struct{ io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	runtime.Gosched()
	return s.Reader.Read(p[:min(len(p), 1000)])
}

func sum(t testing.TB, r io.Reader) [32]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Error(err)
	}
	return [32]byte(h.Sum(nil))
}

// Every byte arrives, in order and once, both ways at the same time, small and
// bulk, and each end is passed on by itself.
func TestPumpMovesEverything(t *testing.T) {
	p := newPump(t)
	for _, size := range []int64{0, 1, copySize - 1, copySize, copySize + 1, 3 * copySize, 1 << 20, 24 << 20} {
		client, server, f, ended := joined(t, p)
		var wg sync.WaitGroup
		var up, down [32]byte
		wg.Go(func() {
			if err := chunks(client, 1, size); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := chunks(server, 2, size+7); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { up = sum(t, server) })
		wg.Go(func() { down = sum(t, slowly{client}) })
		wg.Wait()
		if up != sum(t, noise(1, size)) || down != sum(t, noise(2, size+7)) {
			t.Errorf("%d bytes: what arrived is not what was sent", size)
		}
		m := wait(t, ended)
		if m.Err != nil || m.Sent != size || m.Received != size+7 {
			t.Errorf("%d bytes: %+v", size, m)
		}
		if sent, received := f.Moved(); sent != size || received != size+7 {
			t.Errorf("the flow counts %d and %d", sent, received)
		}
	}
}

// A side that has closed still receives, as long as the other sends.
func TestPumpHalfClose(t *testing.T) {
	client, server, _, ended := joined(t, newPump(t))
	must(t, client.CloseWrite())
	if b, err := io.ReadAll(server); err != nil || len(b) > 0 {
		t.Fatalf("%q, %v", b, err)
	}
	for range 3 {
		_, err := server.Write([]byte("late"))
		must(t, err)
		b := make([]byte, 4)
		if _, err := io.ReadFull(client, b); err != nil || string(b) != "late" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	select {
	case m := <-ended:
		t.Fatalf("ended too early: %+v", m)
	default:
	}
	must(t, server.Close())
	if b, err := io.ReadAll(client); err != nil || len(b) > 0 {
		t.Fatalf("%q, %v", b, err)
	}
	if m := wait(t, ended); m.Err != nil || m.Received != 12 {
		t.Errorf("%+v", m)
	}
}

// A reset of one side is a reset for the other, not an end that looks whole.
func TestPumpPassesResetsOn(t *testing.T) {
	client, server, _, ended := joined(t, newPump(t))
	_, err := client.Write([]byte("x"))
	must(t, err)
	_, err = io.ReadFull(server, make([]byte, 1))
	must(t, err)
	must(t, client.SetLinger(0))
	must(t, client.Close())
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server reads %v, want a reset", err)
	}
	if m := wait(t, ended); !errors.Is(m.Err, syscall.ECONNRESET) {
		t.Errorf("%+v", m)
	}
}

// A server that answers and closes without having read all resets what the
// client sends. Its answer arrives nevertheless.
func TestPumpKeepsLastWords(t *testing.T) {
	p := newPump(t)
	for range 50 {
		client, server, _, ended := joined(t, p)
		_, err := server.Write(bytes.Repeat([]byte("FATAL"), 10))
		must(t, err)
		_, err = client.Write(make([]byte, 1<<10))
		must(t, err)
		_, err = io.ReadFull(server, make([]byte, 10))
		must(t, err)
		must(t, server.Close()) // unread bytes: a reset
		b := make([]byte, 50)
		if n, err := io.ReadFull(client, b); err != nil {
			t.Fatalf("%d bytes of the answer, %v", n, err)
		}
		_ = client.Close()
		wait(t, ended)
	}
}

// A reader that stops reading stops the writer: nothing is piled up.
func TestPumpBackPressure(t *testing.T) {
	client, server, f, ended := joined(t, newPump(t))
	must(t, client.SetWriteBuffer(64<<10))
	block := make([]byte, 64<<10)
	written := 0
	for written < 256<<20 {
		must(t, client.SetWriteDeadline(time.Now().Add(500*time.Millisecond)))
		n, err := client.Write(block)
		written += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		must(t, err)
	}
	if written >= 256<<20 {
		t.Fatal("256 MiB were taken from a client whose server reads nothing")
	}
	must(t, client.SetWriteDeadline(time.Now().Add(patience)))
	go func() { _ = client.CloseWrite() }()
	n, err := io.Copy(io.Discard, server)
	if err != nil || n != int64(written) {
		t.Errorf("%d of %d bytes arrived, %v", n, written, err)
	}
	must(t, server.Close())
	wait(t, ended)
	if sent, _ := f.Moved(); sent != int64(written) {
		t.Errorf("counted %d, want %d", sent, written)
	}
}

func TestPumpCut(t *testing.T) {
	client, server, f, ended := joined(t, newPump(t))
	f.Cut()
	f.Cut()
	if m := wait(t, ended); !errors.Is(m.Err, ErrCut) {
		t.Errorf("%+v", m)
	}
	for _, c := range []net.Conn{client, server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v, want a reset", err)
		}
	}
	f.Cut() // of a flow that is over
}

func TestPipeEndsWithItsContext(t *testing.T) {
	p := newPump(t)
	ctx, cancel := context.WithCancel(t.Context())
	client, a := pair(t)
	server, b := pair(t)
	done := make(chan error, 1)
	go func() {
		_, _, err := p.Pipe(ctx, a, b)
		done <- err
	}()
	_, err := client.Write([]byte("x"))
	must(t, err)
	_, err = io.ReadFull(server, make([]byte, 1))
	must(t, err)
	cancel()
	if err := wait(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Closing a pump ends what is in it, and nothing stays behind.
func TestPumpLeavesNothing(t *testing.T) {
	before := descriptors(t)
	p, err := NewPump(PumpConfig{Workers: 2})
	must(t, err)
	var ends []chan Moved
	for i := range 100 {
		client, server, _, ended := joined(t, p)
		ends = append(ends, ended)
		if i%2 == 0 {
			_, err := client.Write(make([]byte, 100<<10)) // bulk, into a pipe
			must(t, err)
		}
		if i%10 == 0 {
			go func() { _, _ = io.Copy(io.Discard, server) }()
		}
	}
	p.Close()
	for _, e := range ends {
		if m := wait(t, e); m.Err == nil {
			t.Errorf("%+v", m)
		}
	}
	client, a := pair(t)
	_, b := pair(t)
	if _, err := p.Start(a, b, func(Moved) {}); err == nil {
		t.Error("a closed pump takes connections")
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("a refused connection stays open")
	}
	// The clients' and servers' own ends: 100 pairs, and one and a half.
	if after := descriptors(t); after > before+2*100+2+4 {
		t.Errorf("%d descriptors are open, %d before", after, before)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(d)
}

// Many flows at once, each its own bytes.
func TestPumpManyFlows(t *testing.T) {
	p := newPump(t)
	var wg sync.WaitGroup
	for i := range 64 {
		client, server, _, ended := joined(t, p)
		wg.Go(func() { // an echo
			_, _ = io.Copy(onlyWriter{server}, server)
			_ = server.CloseWrite()
		})
		wg.Go(func() {
			msg, got := make([]byte, 100), make([]byte, 100)
			for k := range 200 {
				msg[0], msg[1], msg[99] = byte(i), byte(k), byte(i^k)
				if _, err := client.Write(msg); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(msg, got) {
					t.Errorf("flow %d, message %d: %v", i, k, err)
					return
				}
			}
			_ = client.CloseWrite()
			if m := wait(t, ended); m.Sent != 20000 || m.Received != 20000 || m.Err != nil {
				t.Errorf("%+v", m)
			}
		})
	}
	wg.Wait()
}

// A flow that is idle costs no goroutine and little memory. The test's own
// ends of the connections are in the figure.
func TestPumpIdleFlowsCostLittle(t *testing.T) {
	p := newPump(t)
	measure := func() (heap uint64, goroutines int) {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse, runtime.NumGoroutine()
	}
	heap, goroutines := measure()
	const n = 400
	for range n {
		client, server, _, _ := joined(t, p)
		_, err := client.Write([]byte("x"))
		must(t, err)
		_, err = io.ReadFull(server, make([]byte, 1))
		must(t, err)
	}
	heapAfter, goroutinesAfter := measure()
	if goroutinesAfter > goroutines+2 {
		t.Errorf("%d goroutines, %d before %d idle flows", goroutinesAfter, goroutines, n)
	}
	if each := (int64(heapAfter) - int64(heap)) / n; each > 6<<10 {
		t.Errorf("%d bytes each, want at most 6 KiB", each)
	} else {
		t.Logf("%d bytes each", each)
	}
}
