// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// TestScaleFollowsConnections: more connections than the replicas are meant for
// start others at once; when half of them would do one goes after a while, the
// one started first, and the connections it has live on.
func TestScaleFollowsConnections(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		const target = 4
		s := service(l, 40, "shop/mail", "25", "8025", "tcp")
		s.Workload = lab.Greeter(t, 0, fmt.Sprintf("{min: 1, max: 3, target: %d}", target))
		a := l.Start(t, lab.Config{Services: []lab.Service{s}})
		first := waitReplicas(t, a, "shop/mail", 1)[0]
		var conns []net.Conn
		open := func(n int) {
			t.Helper()
			for range n {
				c, err := l.Client.Dial("tcp", netip.AddrPort{}, vip(lab.V4, 40, 25), 10*time.Second)
				must(t, err)
				t.Cleanup(func() { _ = c.Close() })
				must(t, c.SetDeadline(time.Now().Add(2*time.Minute)))
				must(t, hear(c, lab.Greeting))
				conns = append(conns, c)
			}
		}
		open(target)
		time.Sleep(3 * time.Second) // several looks
		waitReplicas(t, a, "shop/mail", 1)
		open(1)
		waitReplicas(t, a, "shop/mail", 2)
		open(10 * target)
		begun := time.Now()
		waitReplicas(t, a, "shop/mail", 3)
		t.Logf("the third replica was ready after %s", time.Since(begun))
		open(2 * target) // of all three
		for _, c := range conns[target : len(conns)-target] {
			must(t, finish(c))
		}
		conns = slices.Concat(conns[:target], conns[len(conns)-target:])
		lab.Poll(t, 60*time.Second, func() error {
			left := 0
			for _, w := range a.Workloads(t) {
				if w.Phase == "ready" {
					left++
				}
				if w.ID == first.ID && w.Phase == "ready" && w.PID == first.PID {
					return errors.New("the first replica serves still")
				}
			}
			if left != 2 {
				return fmt.Errorf("%d replicas are ready, want 2", left)
			}
			return nil
		}, a.Log)
		for i, c := range conns { // those of the first one, too
			_, err := io.WriteString(c, "ping")
			must(t, err)
			if err := hear(c, "ping"); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		}
		var wg sync.WaitGroup
		errs := make([]error, 20)
		for i := range errs {
			wg.Go(func() { errs[i] = converse(l.Client, vip(lab.V6, 40, 25)) })
		}
		wg.Wait()
		must(t, errors.Join(errs...))
	})
}

// TestD05HTTPHead: a service that listens is not ready before HEAD / is answered
// without an error; a request that waits for it gets no answer of before.
func TestD05HTTPHead(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := lab.NewAgent(t, l.Node, l.Mode)
		a.WriteText(t, "node: {interfaces: [up0], cgroup: \"\"}\nservices:\n- project: shop\n  user: web\n  run: {containerPort: 8090, servicePort: 80}\n"+
			"  expose:\n  - http: {host: web.example.test, tls: off}\n  workload:\n"+lab.Warming(t, 1500*time.Millisecond, "{min: 0, idle: 1h, startTimeout: 20s}")+
			"    ready: http-head\n")
		a.Run(t)
		a.WaitReady(t, 0)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				out, err := l.Client.Try("curl", "-sS", "--noproxy", "*", "--max-time", "30", "-H", "Host: web.example.test", "http://"+lab.NodeAddr(lab.V4).String()+"/")
				if err != nil || out != "warm\n" {
					t.Errorf("%v: %q", err, out)
				}
			})
		}
		wg.Wait()
	})
}
