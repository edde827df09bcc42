// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A flow begins on the first worker; when that has no time to spare on the
// next; when none has, on each in turn.
func TestFlowsBeginTogether(t *testing.T) {
	p, err := NewPump(PumpConfig{Workers: 3})
	must(t, err)
	defer p.Close()
	for range 5 {
		if p.worker() != p.workers[0] {
			t.Fatal("not on the first")
		}
	}
	p.workers[0].loaded.Store(true)
	if p.worker() != p.workers[1] {
		t.Error("not on the second")
	}
	p.workers[1].loaded.Store(true)
	p.workers[2].loaded.Store(true)
	on := map[*worker]int{}
	for range 9 {
		on[p.worker()]++
	}
	for i, w := range p.workers {
		if on[w] != 3 {
			t.Errorf("%d of 9 on worker %d", on[w], i)
		}
	}
}

// A worker without time to spare gives half of its flows to another, and again
// and again, while they talk. No byte is lost and a flow can be cut wherever it
// is.
func TestFlowsAreGivenAway(t *testing.T) {
	p, err := NewPump(PumpConfig{Workers: 2, window: time.Millisecond, spare: 2}) // no wait is long enough
	must(t, err)
	defer p.Close()
	const n = 32
	var (
		flows [n]*Flow
		ended [n]chan Moved
		wg    sync.WaitGroup
		moves atomic.Int32
	)
	for i := range n {
		var client, server *net.TCPConn
		client, server, flows[i], ended[i] = joined(t, p)
		go func() { _, _ = io.Copy(onlyWriter{server}, server) }()
		wg.Go(func() {
			msg, got := make([]byte, 20<<10), make([]byte, 20<<10)
			at := flows[i].worker.Load()
			for k := 0; k < 100 || moves.Load() < 3*n && k < 1e5; k++ {
				part := msg[:1+k*7919%len(msg)]
				part[0], part[len(part)-1] = byte(i), byte(k)
				if _, err := client.Write(part); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(client, got[:len(part)]); err != nil || !bytes.Equal(part, got[:len(part)]) {
					t.Errorf("flow %d, message %d: %v", i, k, err)
					return
				}
				if now := flows[i].worker.Load(); now != at {
					moves.Add(1)
					at = now
				}
				p.workers[k%2].loaded.Store(false) // there is always one to give to
			}
		})
	}
	wg.Wait()
	if m := moves.Load(); m < 3*n {
		t.Errorf("%d flows were given away %d times", n, m)
	}
	for _, f := range flows {
		f.Cut()
	}
	for i := range n {
		if m := wait(t, ended[i]); !errors.Is(m.Err, ErrCut) {
			t.Errorf("flow %d: %+v", i, m)
		}
	}
}

// An order that reaches a worker after it gave the flow away is carried out by
// the one that has it.
func TestOrdersFollowAFlow(t *testing.T) {
	p, err := NewPump(PumpConfig{Workers: 2})
	must(t, err)
	defer p.Close()
	_, _, f, ended := joined(t, p)
	if f.worker.Load() != p.workers[0] {
		t.Fatal("the flow is not on the first worker")
	}
	p.workers[0].mu.Lock() // it takes no order
	p.workers[1].post(order{kind: orderCut, flow: f})
	select {
	case m := <-ended:
		t.Errorf("cut by the worker that has not got it: %+v", m)
		ended <- m
	case <-time.After(20 * time.Millisecond):
	}
	p.workers[0].mu.Unlock()
	if m := wait(t, ended); !errors.Is(m.Err, ErrCut) {
		t.Errorf("%+v", m)
	}
}

// Bulk goes on while flows are given away, with what is in pipes and what had
// its turn; no pipe is left over.
func TestBulkIsGivenAway(t *testing.T) {
	p, err := NewPump(PumpConfig{Workers: 2, window: time.Millisecond, spare: 2})
	must(t, err)
	defer p.Close()
	const n, size = 6, 24 << 20
	var wg sync.WaitGroup
	var moves atomic.Int32
	for i := range n {
		client, server, f, ended := joined(t, p)
		wg.Go(func() {
			if err := chunks(server, uint64(i), size); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			_ = client.CloseWrite()
			r := noise(uint64(i), size)
			want, got := make([]byte, 64<<10), make([]byte, 64<<10)
			at := f.worker.Load()
			for {
				k, err := io.ReadFull(client, got)
				_, _ = io.ReadFull(r, want[:k])
				if !bytes.Equal(got[:k], want[:k]) {
					t.Errorf("flow %d: other bytes", i)
				}
				if err != nil {
					break
				}
				if now := f.worker.Load(); now != at {
					moves.Add(1)
					at = now
				}
				for _, w := range p.workers {
					w.loaded.Store(false)
				}
			}
			if m := wait(t, ended); m.Err != nil || m.Received != size {
				t.Errorf("flow %d: %+v", i, m)
			}
		})
	}
	wg.Wait()
	if moves.Load() < n {
		t.Errorf("%d flows were given away %d times", n, moves.Load())
	}
	p.Close()
	for i, w := range p.workers {
		if w.pipes != len(w.idle) {
			t.Errorf("worker %d counts %d pipes and has %d", i, w.pipes, len(w.idle))
		}
	}
}
