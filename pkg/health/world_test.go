// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fairlead-lb/fairlead/pkg/model"
	"github.com/fairlead-lb/fairlead/pkg/reconcile"
	"github.com/fairlead-lb/fairlead/pkg/source"
)

func TestMain(m *testing.M) {
	if os.Getenv(replicaEnv) != "" {
		serveBenchmark()
		return
	}
	goleak.VerifyTestMain(m)
}

var (
	_ reconcile.Target = (*Checker)(nil)
	_ source.Source    = (*Checker)(nil)
)

// world is a network of replicas that never leaves the test, in the time of a
// synctest bubble.
type world struct {
	t *testing.T
	*Checker

	mu      sync.Mutex
	down    map[string]error // by ADDRESS:PORT or ADDRESS; errHang: no answer
	dials   map[string][]time.Time
	now     int // connections being made
	most    int // of now
	parts   []string
	log     strings.Builder
	publish func(source.Part) // optional, beside parts
}

// errHang is a replica that does not answer at all.
var errHang = fmt.Errorf("hangs")

// run starts a Checker; the test is to run in a bubble. It ends with the test.
func run(t *testing.T, cfg Config) *world {
	t.Helper()
	w := &world{t: t, down: map[string]error{}, dials: map[string][]time.Time{}}
	if cfg.Rand == nil {
		cfg.Rand = func() float64 { return 0.5 } // so that every run is the same
	}
	cfg.Dial, cfg.Log = w.dial, slog.New(slog.NewTextHandler(w, nil))
	w.Checker = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, w.take) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
	return w
}

func (w *world) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	w.mu.Lock()
	w.dials[to.String()] = append(w.dials[to.String()], time.Now())
	err := w.down[to.String()]
	if err == nil {
		err = w.down[to.Addr().String()]
	}
	w.now++
	w.most = max(w.most, w.now)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.now--
		w.mu.Unlock()
	}()
	switch err {
	case nil:
		a, b := net.Pipe()
		b.Close()
		return a, nil
	case errHang:
		<-ctx.Done()
		err = ctx.Err()
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
}

func (w *world) take(p source.Part) {
	w.mu.Lock()
	w.parts = append(w.parts, describe(p))
	publish := w.publish
	w.mu.Unlock()
	if publish != nil {
		publish(p)
	}
}

func describe(p source.Part) string {
	var out []string
	for _, c := range p.Conditions {
		if c.Share > 0 {
			out = append(out, fmt.Sprintf("%s %s %d%%", c.Service, c.Addr, c.Share))
			continue
		}
		out = append(out, fmt.Sprintf("%s %s %s", c.Service, netip.AddrPortFrom(c.Addr, c.Port), c.Condition))
	}
	return strings.Join(out, ", ")
}

// set has replicas, ADDRESS or ADDRESS:PORT, fail with err, or pass: nil.
func (w *world) set(err error, replicas ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range replicas {
		w.down[r] = err
	}
}

func (w *world) fail(replicas ...string) { w.set(syscall.ECONNREFUSED, replicas...) }
func (w *world) heal(replicas ...string) { w.set(nil, replicas...) }

// apply replaces the state by one of these services.
func (w *world) apply(services ...model.Service) {
	w.t.Helper()
	s := state(services...)
	if err := w.Apply(w.t.Context(), s); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// pass lets time go by.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

// last is the newest Part in words.
func (w *world) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.parts) == 0 {
		return "nothing published"
	}
	return w.parts[len(w.parts)-1]
}

func (w *world) want(part string) {
	w.t.Helper()
	if got := w.last(); got != part {
		w.t.Errorf("published %q, want %q", got, part)
	}
}

// count is how often a replica has been asked.
func (w *world) count(replica string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.dials[replica])
}

// asked lists when each replica was asked.
func (w *world) asked() map[string][]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.dials)
}

// hanging is how many connections are being made, and the most there were.
func (w *world) hanging() (now, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now, w.most
}

// published counts the Parts.
func (w *world) published() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.parts)
}

// Write is for the log.
func (w *world) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(line)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) check(to string) Check {
	w.t.Helper()
	for _, c := range w.Checks() {
		if netip.AddrPortFrom(c.Addr, c.Port).String() == to {
			return c
		}
	}
	w.t.Fatalf("no check of %s", to)
	return Check{}
}

func (w *world) service(user string) Service {
	w.t.Helper()
	for _, s := range w.Services() {
		if s.Service == name(user) {
			return s
		}
	}
	w.t.Fatalf("service p/%s is not checked", user)
	return Service{}
}

func name(user string) model.ServiceName { return model.ServiceName{Project: "p", User: user} }

func state(services ...model.Service) *model.State {
	s := &model.State{}
	for _, svc := range services {
		s.Services = append(s.Services, &svc)
	}
	slices.SortFunc(s.Services, func(a, b *model.Service) int { return a.Name.Compare(b.Name) })
	return s
}

// tcpCheck is every 2 s, out after 3 failures, in after 2 passes.
func tcpCheck() model.HealthCheck {
	return model.HealthCheck{Type: "tcp", Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3}
}

// svc is a service with TCP port 80 and replicas such as "10.0.0.1" or
// "10.0.0.1+fd00::1"; a "!" in front: drained, a "-": held down by others.
func svc(user string, replicas ...string) model.Service {
	s := model.Service{
		Name: name(user), Health: tcpCheck(),
		Ports: []model.Port{{Service: 1, Container: 80, Protocol: model.TCP}},
	}
	for _, r := range replicas {
		b := model.Backend{Weight: 1}
		if rest, ok := strings.CutPrefix(r, "!"); ok {
			r, b.Condition = rest, model.Draining
		} else if rest, ok := strings.CutPrefix(r, "-"); ok {
			r, b.Condition = rest, model.Down
		}
		for a := range strings.SplitSeq(r, "+") {
			if a := netip.MustParseAddr(a); a.Is4() {
				b.Addr4 = a
			} else {
				b.Addr6 = a
			}
		}
		s.Backends = append(s.Backends, b)
	}
	slices.SortFunc(s.Backends, model.Backend.Compare)
	return s
}

// ports replaces a service's ports: container ports, TCP, or UDP if negative.
func ports(s model.Service, containers ...int) model.Service {
	s.Ports = nil
	for i, p := range containers {
		port := model.Port{Service: uint16(i + 1), Container: uint16(max(p, -p)), Protocol: model.TCP}
		if p < 0 {
			port.Protocol = model.UDP
		}
		s.Ports = append(s.Ports, port)
	}
	return s
}
