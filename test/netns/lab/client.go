// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Spread opens n connections one after the other on each of a few threads,
// and counts who answered. The first error ends it.
func (n *Netns) Spread(remote netip.AddrPort, total int) (map[string]int, error) {
	const threads = 4
	var left atomic.Int64
	left.Store(int64(total))
	var mu sync.Mutex
	count := map[string]int{}
	var errs []error
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			mine := map[string]int{}
			err := n.Do(func() error {
				for left.Add(-1) >= 0 {
					name, err := once(remote)
					if err != nil {
						left.Store(0)
						return err
					}
					mine[name]++
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			for name, k := range mine {
				count[name] += k
			}
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return count, errors.Join(errs...)
}

// once connects, reads the banner and closes.
func once(remote netip.AddrPort) (string, error) {
	c, err := net.DialTimeout("tcp", remote.String(), Patience(5*time.Second))
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(Patience(5 * time.Second)))
	buf := make([]byte, 256)
	k, err := c.Read(buf)
	if err != nil {
		return "", fmt.Errorf("read banner: %w", err)
	}
	a, err := ParseAnswer(string(buf[:k]))
	return a.Replica, err
}

// Load is connections that exchange a line every so often until stopped.
type Load struct {
	Conns []*Conn

	stop  chan struct{}
	wg    sync.WaitGroup
	still standstill
	pings []atomic.Int64 // by connection
	mu    sync.Mutex
	errs  []error
}

// stall is how long an answer may take: more than a lost packet's repetition
// on a busy machine, less than a path that is cut for a while. Time in which the
// machine stands still is no answer's.
const stall = 3 * time.Second

// NewLoad opens count connections, turn and turn about to the remotes, and
// keeps them busy: one line each per interval. It is stopped with the test.
func (n *Netns) NewLoad(t testing.TB, count int, interval time.Duration, remotes ...netip.AddrPort) *Load {
	t.Helper()
	l := &Load{stop: make(chan struct{}), Conns: make([]*Conn, count), pings: make([]atomic.Int64, count)}
	var wg sync.WaitGroup
	errs := make([]error, count)
	slots := make(chan struct{}, 8)
	for i := range count {
		slots <- struct{}{}
		wg.Go(func() {
			l.Conns[i], errs[i] = n.Open(netip.AddrPort{}, remotes[i%len(remotes)])
			<-slots
		})
	}
	wg.Wait()
	t.Cleanup(func() { l.Stop() })
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("open %d connections: %v", count, err)
	}
	l.wg.Go(func() { l.still.watch(l.stop) })
	for i, c := range l.Conns {
		l.wg.Go(func() { l.keep(c, i, interval) })
	}
	return l
}

func (l *Load) keep(c *Conn, i int, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for k := 0; ; k++ {
		line, begun := fmt.Sprintf("connection %d line %d", i, k), l.still.soFar()
		err := c.Ping(line, stall)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			time.Sleep(2 * heartbeat) // which may have its turn after this one
			if l.still.soFar() > begun {
				err = c.Late(line, stall)
			}
		}
		if err != nil {
			l.mu.Lock()
			l.errs = append(l.errs, fmt.Errorf(
				"%s to %s (%s), line %d, the machine having stood still for %s meanwhile: %w",
				c.LocalAddr(), c.RemoteAddr(), c.Replica, k, l.still.soFar()-begun, err,
			))
			l.mu.Unlock()
			return
		}
		l.pings[i].Add(1)
		select {
		case <-l.stop:
			return
		case <-tick.C:
		}
	}
}

// Pings counts the lines that came back.
func (l *Load) Pings() int64 {
	sum := int64(0)
	for i := range l.pings {
		sum += l.pings[i].Load()
	}
	return sum
}

// Round waits until every connection has sent a line after the call and got it
// back.
func (l *Load) Round(t testing.TB) {
	t.Helper()
	want := make([]int64, len(l.pings))
	for i := range want {
		want[i] = l.pings[i].Load() + 2 // the first may have been on its way
	}
	Poll(t, 30*time.Second, func() error {
		if err := l.Err(); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if l.pings[i].Load() < want[i] {
				return fmt.Errorf("connection %d to %s waits for line %d", i, l.Conns[i].Replica, l.pings[i].Load())
			}
		}
		return nil
	})
}

// Err is what has gone wrong so far.
func (l *Load) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errs) > 5 {
		return fmt.Errorf("%d of %d connections broke, the first: %w", len(l.errs), len(l.Conns), errors.Join(l.errs[:5]...))
	}
	return errors.Join(l.errs...)
}

// Stop ends the exchange, closes the connections and returns Err.
func (l *Load) Stop() error {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.wg.Wait()
	for _, c := range l.Conns {
		if c != nil {
			c.Close()
		}
	}
	return l.Err()
}

// checksumErrors counts what the namespace's stack refused for a wrong
// checksum, by protocol.
func (n *Netns) checksumErrors() (map[string]string, error) {
	wrong := map[string]string{}
	err := n.Do(func() error {
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(snmp)) {
			f := strings.Fields(line)
			if names == nil {
				names = f
				continue
			}
			for i, name := range names {
				if strings.HasSuffix(name, "InCsumErrors") && f[i] != "0" {
					wrong[f[0]+name] = f[i]
				}
			}
			names = nil
		}
		snmp6, err := os.ReadFile("/proc/thread-self/net/snmp6")
		for line := range strings.Lines(string(snmp6)) {
			if f := strings.Fields(line); strings.HasSuffix(f[0], "InCsumErrors") && f[1] != "0" {
				wrong[f[0]] = f[1]
			}
		}
		return err
	})
	return wrong, err
}

// checkChecksums fails the test if a stack of the lab saw a wrong checksum.
func (l *Lab) checkChecksums(t testing.TB) {
	spaces := []*Netns{l.Client, l.Node}
	for _, r := range l.Replicas {
		spaces = append(spaces, r.NS)
	}
	for _, n := range spaces {
		wrong, err := n.checksumErrors()
		if err != nil {
			t.Errorf("read counters of %s: %v", n.Name, err)
		}
		for name, k := range wrong {
			t.Errorf("%s refused %s packets: %s", n.Name, k, name)
		}
	}
}
