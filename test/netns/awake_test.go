// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// talker is a workload that switches to WebSocket and stays silent, answers
// /slow after a while, and everything else at once.
const talker = `
import os, socket, threading, time
def serve(c):
    head = b""
    while b"\r\n\r\n" not in head:
        got = c.recv(4096)
        if not got: return
        head += got
    if b"websocket" in head.lower():
        c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        while c.recv(4096): pass
    else:
        if b"/slow" in head: time.sleep(5)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    c.close()
l = socket.create_server(("", int(os.environ["PORT"])))
while True:
    threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
`

// TestW09WhyAwake: status names what keeps a service awake, by address and
// kind, and what waits for it; a dry run says what a sleep would do.
func TestW09WhyAwake(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := lab.NewAgent(t, l.Node, l.Mode)
		web := service(l, 42, "shop/web", "80", "8090", "tcp")
		web.Workload = python(t, a, "talker", talker, "    scale: {min: 0, idle: 1s}\n") +
			"  expose:\n  - http: {host: web.example.test, tls: off, paths: [{path: /, servicePort: 80, websocket: true}]}\n"
		a.Write(t, lab.Config{
			Services: []lab.Service{
				sleepy(t, l, 40, "shop/mail", "25", 0, "{min: 0, idle: 1h}"), sleepy(t, l, 41, "shop/slow", "26", 5*time.Second, "{min: 0, idle: 1h}"), web,
			},
			Settings: fmt.Sprintf("listen: {metrics: \"%s:9320\"}\n", lab.NodeAddr(lab.V4)),
		})
		a.Run(t)
		a.WaitReady(t, 0)
		shows := func(service, pattern string) {
			t.Helper()
			re := regexp.MustCompile(pattern)
			lab.Poll(t, 20*time.Second, func() error {
				if out := a.CLI(t, "status", service); !re.MatchString(out) {
					return fmt.Errorf("no %s in:\n%s", pattern, out)
				}
				return nil
			}, a.Log)
		}
		open := func(to netip.AddrPort) net.Conn {
			t.Helper()
			c, err := l.Client.Dial("tcp", netip.AddrPort{}, to, 10*time.Second)
			must(t, err)
			t.Cleanup(func() { _ = c.Close() })
			must(t, c.SetDeadline(time.Now().Add(60*time.Second)))
			return c
		}
		var held, straight net.Conn
		client := func(c net.Conn) string { return regexp.QuoteMeta(c.LocalAddr().String()) }
		t.Run("L4", func(t *testing.T) {
			to := vip(lab.V4, 40, 25)
			held = open(to)
			must(t, hear(held, lab.Greeting))
			waitReplicas(t, a, "shop/mail", 1) // from now on without the agent
			straight = open(to)
			must(t, hear(straight, lab.Greeting))
			shows("shop/mail", `held +`+client(held)+` .*to port 25, opened while it slept`)
			shows("shop/mail", `connection +`+client(straight)+` .*to `+regexp.QuoteMeta(to.String()))
			shows("shop/mail", `awake since .* because of: a connection from `+lab.ClientAddr(lab.V4).String()+`.*; falls asleep at .*, in 59m\d+s`)
		})
		t.Run("HostProgram", func(t *testing.T) {
			cmd := a.HostCommand(t, "/usr/bin/bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/25; head -n 1 <&3; sleep 60", vip(lab.V4, 40, 25).Addr()))
			must(t, cmd.Start())
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			shows("shop/mail", `and 1 more, those of programs on this host`)
		})
		t.Run("DryRun", func(t *testing.T) {
			lab.Poll(t, 20*time.Second, func() error { // until the host's connection is gone
				if out := a.CLI(t, "sleep", "--dry-run", "shop/mail"); !strings.Contains(out, "nothing is cut") || !strings.Contains(out, "Open: 2") {
					return fmt.Errorf("dry run in use: %s", out)
				}
				return nil
			}, a.Log)
			if out := a.CLI(t, "stop", "--dry-run", "shop/mail"); !strings.Contains(out, "new connections are refused, and what is open (2)") || !strings.Contains(out, "drain time of") {
				t.Errorf("stop: %s", out)
			}
			for _, c := range []net.Conn{held, straight} { // nothing was done
				must(t, finish(c))
				must(t, c.Close())
			}
			lab.Poll(t, 20*time.Second, func() error {
				if out := a.CLI(t, "sleep", "--dry-run", "shop/mail"); !strings.Contains(out, "would: stop its replicas, and cut nothing") {
					return fmt.Errorf("dry run: %s", out)
				}
				return nil
			}, a.Log)
			if n := len(waitReplicas(t, a, "shop/mail", 1)); n != 1 {
				t.Errorf("a dry run stopped it")
			}
			a.CLI(t, "sleep", "shop/mail")
			waitAsleep(t, a, "shop/mail")
			if out := a.CLI(t, "sleep", "--dry-run", "shop/mail"); !strings.Contains(out, "nothing: it is asleep") {
				t.Errorf("dry run asleep: %s", out)
			}
			if out, err := a.TryCLI("wake", "--dry-run", "shop/mail"); err == nil {
				t.Errorf("wake --dry-run: %s", out)
			}
		})
		t.Run("Waiting", func(t *testing.T) {
			c := open(vip(lab.V4, 41, 26))
			_, err := io.WriteString(c, "sent early")
			must(t, err)
			shows("shop/slow", `waiting +`+client(c)+` .*to port 26, until a replica is ready`)
			if out := a.CLI(t, "status", "shop/slow"); !strings.Contains(out, "waking since") || !strings.Contains(out, "1 connection waiting for it") {
				t.Errorf("status: %s", out)
			}
			metrics := l.Client.Run(t, "curl", "-sS", "http://"+lab.NodeAddr(lab.V4).String()+":9320/metrics")
			for _, want := range []string{`fairlead_wake_waiting{service="shop/slow"} 1`, `fairlead_held_connections{state="waiting"} 1`, `fairlead_held_pending_bytes 10`, `fairlead_held_connections_total{result="joined"} 1`} {
				if !strings.Contains(metrics, want) {
					t.Errorf("no %s in the metrics", want)
				}
			}
			must(t, hear(c, lab.Greeting))
		})
		t.Run("L07WebSocketAndRequests", func(t *testing.T) {
			front := netip.AddrPortFrom(lab.NodeAddr(lab.V4), 80)
			c := open(front)
			_, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: web.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			must(t, err)
			must(t, hear(c, "HTTP/1.1 101"))
			from := regexp.QuoteMeta(lab.ClientAddr(lab.V4).String())
			shows("shop/web", `websocket +`+from+` .*open WebSocket`)
			slow := open(front)
			_, err = io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: web.example.test\r\n\r\n")
			must(t, err)
			shows("shop/web", `request +`+from+` .*HTTP in flight`)
			must(t, hear(slow, "HTTP/1.1 200"))
			// Both sides are silent for much longer than idle.
			for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
				if w := a.Workloads(t); len(w) == 0 {
					t.Fatal("it fell asleep with an open WebSocket")
				}
			}
			shows("shop/web", `websocket +`+from)
			must(t, c.Close())
			waitAsleep(t, a, "shop/web")
			shows("shop/web", `asleep since .* because of: nobody used it for 1s`)
		})
	})
}
