// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

// replicaEnv makes the test program the replicas of a benchmark, so that only
// the checker's processor time is measured.
const replicaEnv = "FAIRLEAD_HEALTH_REPLICAS"

// serveBenchmark answers on every address of the loopback net until its
// standard input ends.
func serveBenchmark() {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			continue
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if strings.TrimSpace(line) == "" {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
					return
				}
			}
		}()
	}
}

func replicas(b *testing.B) int {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), replicaEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	var port int
	if _, err := fmt.Fscan(out, &port); err != nil {
		b.Fatal(err)
	}
	return port
}

func manyBackends(n int) []model.Backend {
	bs := make([]model.Backend, n)
	for i := range bs {
		bs[i] = model.Backend{Addr4: netip.AddrFrom4([4]byte{127, 1 + byte(i/62500), byte(i / 250 % 250), 1 + byte(i%250)}), Weight: 1}
	}
	return bs
}

// running runs the checker until the benchmark ends.
func running(b *testing.B, c *Checker) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx, func(source.Part) {}) }()
	b.Cleanup(func() { cancel(); <-done })
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTenThousand checks 10 000 replicas every 2 s: what of a core the
// checks take, with real connections (tcp, http) and without (schedule).
// Run with -benchtime=30000x: six seconds each.
func BenchmarkTenThousand(b *testing.B) {
	for _, kind := range []string{"schedule", "tcp", "http"} {
		b.Run(kind, func(b *testing.B) {
			s := svc("a")
			s.Health.Type, s.Health.Path, s.Health.Interval = kind, "/", 2*time.Second
			cfg := Config{Log: slog.New(slog.DiscardHandler)}
			port := 80
			if kind == "schedule" {
				s.Health.Type = "tcp"
				cfg.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) { return nobody{}, nil }
			} else {
				port = replicas(b)
			}
			s = ports(s, port)
			s.Backends = manyBackends(10_000)
			c := New(cfg)
			running(b, c)
			_ = c.Apply(b.Context(), state(s))
			until := func(n uint64) {
				for c.Stats().Checks < n {
					time.Sleep(10 * time.Millisecond)
				}
			}
			until(15_000) // past the rush of the start
			begun, used, was := time.Now(), cpu(), c.Stats().Checks
			b.ResetTimer()
			until(was + uint64(b.N))
			b.StopTimer()
			n := float64(c.Stats().Checks - was)
			b.ReportMetric(float64((cpu()-used).Microseconds())/n, "cpu-µs/check")
			b.ReportMetric(100*(cpu()-used).Seconds()/time.Since(begun).Seconds(), "%core")
			b.ReportMetric(n/time.Since(begun).Seconds(), "checks/s")
			if st := c.Stats(); st.Failures+st.Late+st.Inconclusive > 0 {
				b.Logf("%+v", st)
			}
		})
	}
}

type nobody struct{ net.Conn }

func (nobody) Close() error { return nil }

// BenchmarkApply is a new state in which one of 10 000 services with ten
// replicas each has changed, and what the checks weigh.
func BenchmarkApply(b *testing.B) {
	services := make([]model.Service, 10_000)
	for i := range services {
		services[i] = svc(fmt.Sprintf("s%05d", i))
		services[i].Backends = manyBackends(10)
	}
	c := New(Config{Log: slog.New(slog.DiscardHandler)})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := state(services...)
	_ = c.Apply(b.Context(), s)
	runtime.GC()
	runtime.ReadMemStats(&after)
	changed := *s.Services[5000]
	changed.Backends = manyBackends(11)
	two := [2]*model.State{s, {Services: slices.Clone(s.Services)}}
	two[1].Services[5000] = &changed
	i := 0
	for b.Loop() {
		i++
		_ = c.Apply(b.Context(), two[i%2])
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/100_000, "B/check")
}

// BenchmarkJudge is one judgement of a service with 10 000 replicas, half of
// them down.
func BenchmarkJudge(b *testing.B) {
	c := New(Config{Log: slog.New(slog.DiscardHandler)})
	s := svc("a")
	s.Backends = manyBackends(10_000)
	_ = c.Apply(b.Context(), state(s))
	i := 0
	for _, k := range c.services[s.Name].checks {
		i++
		k.up = i%2 == 0
	}
	for b.Loop() {
		c.services[s.Name].down = nil
		c.services[s.Name].judge()
	}
}
