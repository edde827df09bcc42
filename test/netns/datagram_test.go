// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// mirrored is a service that sleeps, with a UDP port.
func mirrored(t *testing.T, l *lab.Lab, k int, name, port string, delay time.Duration, scale string) lab.Service {
	s := service(l, k, name, port, "8053", "udp")
	s.Workload = lab.Mirror(t, delay, scale)
	return s
}

// say sends datagrams from a socket of a namespace and wants an answer to each, in
// their order, from where they were sent to, that shows the socket's own address.
// Nothing is sent twice.
func say(from *lab.Netns, to netip.AddrPort, what ...string) error {
	c, err := from.Dial("udp", netip.AddrPort{}, to, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	return sayOn(c, what...)
}

func sayOn(c net.Conn, what ...string) error {
	for _, w := range what {
		if _, err := c.Write([]byte(w)); err != nil {
			return err
		}
	}
	_ = c.SetDeadline(time.Now().Add(lab.Patience(30 * time.Second)))
	b := make([]byte, 64<<10)
	for _, w := range what {
		n, err := c.Read(b) // connected: only answers from that address and port are read
		if want := c.LocalAddr().String() + " " + w; err != nil || string(b[:n]) != want {
			return fmt.Errorf("answer %q, want %q: %w", b[:n], want, err)
		}
	}
	return nil
}

// TestD03Datagrams: the first datagram starts a service that sleeps. It and those
// after it reach the replica in order, from the client's own address, and the
// answers come from the virtual IP; no datagram is asked for twice.
func TestD03Datagrams(t *testing.T) {
	lab.Some(t, []string{"tcx", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		quick := mirrored(t, l, 40, "shop/names", "53", 0, "{min: 0, idle: 1s}")
		slow := mirrored(t, l, 41, "shop/game", "54", 700*time.Millisecond, "{min: 0, idle: 1h, queue: 64}")
		slow.Expose = map[int]int{2554: 54}
		inner := service(l, 43, "shop/inner", "28", "8028", "tcp")
		inner.Workload = workload("--tcp", ":8028")
		a := l.Start(t, lab.Config{Services: []lab.Service{quick, slow, inner}})
		inside := lab.NetnsOf(waitReplicas(t, a, "shop/inner", 2)[0].PID)
		families(t, func(t *testing.T, f lab.Family) {
			t.Run("W01FromTheNetwork", func(t *testing.T) {
				waitAsleep(t, a, "shop/names")
				must(t, say(l.Client, vip(f, 40, 53), "one", strings.Repeat("two", 400), "", "four"))
				must(t, say(l.Client, vip(f, 40, 53), "awake"))
			})
			t.Run("W01FromAReplica", func(t *testing.T) {
				waitAsleep(t, a, "shop/names")
				must(t, say(inside, vip(f, 40, 53), "one", "two"))
			})
			t.Run("W04TheSameFlowAgain", func(t *testing.T) {
				c, err := l.Client.Dial("udp", netip.AddrPort{}, vip(f, 40, 53), 10*time.Second)
				must(t, err)
				defer c.Close()
				for i := range 3 {
					waitAsleep(t, a, "shop/names")
					must(t, sayOn(c, fmt.Sprint("time ", i), "and again"))
					must(t, sayOn(c, "awake"))
				}
			})
		})
		t.Run("W02OneStartForMany", func(t *testing.T) {
			var wg sync.WaitGroup
			errs := make([]error, 40)
			for i := range errs {
				wg.Go(func() {
					f := []lab.Family{lab.V4, lab.V6}[i%2]
					to := vip(f, 41, 54)
					if i%4 == 3 {
						to = netip.AddrPortFrom(lab.NodeAddr(f), 2554)
					}
					errs[i] = say(l.Client, to, "a", "b", "c")
				})
			}
			wg.Wait()
			must(t, errors.Join(errs...))
			if n := starts(t, a, "shop/game"); n != 1 {
				t.Errorf("%d starts, want 1", n)
			}
		})
		must(t, shows(l, "fairlead_held_datagrams 0\n", `fairlead_held_datagrams_total{result="dropped"} 0`))
	})
}

// TestD03DatagramsOfTheHost: programs on the host wake by UDP, too, with sockets
// that are connected and with others, and go on with the same socket.
func TestD03DatagramsOfTheHost(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		a := l.Start(t, lab.Config{Services: []lab.Service{mirrored(t, l, 40, "shop/names", "53", 0, "{min: 0, idle: 1s}")}})
		families(t, func(t *testing.T, f lab.Family) {
			to := vip(f, 40, 53)
			for _, network := range []string{"udp", "udp-unconnected"} {
				t.Run(network, func(t *testing.T) {
					waitAsleep(t, a, "shop/names")
					told := a.Host(t, lab.Ask{Network: network, Remote: to}, lab.Ask{Network: network, Remote: to})
					for _, got := range told {
						if got.Err() != nil || !strings.HasSuffix(got.Answer, " hello") || got.Peer != to {
							t.Errorf("%+v, want an answer from %s", got, to)
						}
					}
				})
			}
			t.Run("OneSocketThroughTheSleep", func(t *testing.T) {
				waitAsleep(t, a, "shop/names")
				cmd := a.HostCommand(t, "python3", "-c", `import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
s.connect((sys.argv[1], int(sys.argv[2])))
for line in sys.stdin:
    s.send(line.encode())
    print(s.recv(2048).decode(), end="", flush=True)
`, to.Addr().String(), fmt.Sprint(to.Port()))
				in, err := cmd.StdinPipe()
				must(t, err)
				out := &strings.Builder{}
				cmd.Stdout, cmd.Stderr = out, os.Stderr
				must(t, cmd.Start())
				for i := range 3 {
					waitAsleep(t, a, "shop/names")
					_, err := fmt.Fprintf(in, "round %d\n", i)
					must(t, err)
					waitReplicas(t, a, "shop/names", 1)
				}
				must(t, in.Close())
				must(t, cmd.Wait())
				for i := range 3 {
					if !strings.Contains(out.String(), fmt.Sprintf(" round %d\n", i)) {
						t.Errorf("answers: %q", out)
					}
				}
			})
		})
	})
}

// TestW03DatagramsWithoutAReplica: a service that does not start, and more clients
// than may wait: nothing is held for long, and the counters say what was lost.
func TestW03DatagramsWithoutAReplica(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		dead := mirrored(t, l, 42, "shop/dead", "55", 0, "{min: 0}")
		dead.Workload = "    driver: process\n    command: [/bin/sleep, \"60\"]\n    scale: {min: 0, startTimeout: 2s, queue: 8}\n"
		a := l.Start(t, lab.Config{Services: []lab.Service{dead}})
		const clients = 20
		for range clients {
			c, err := l.Client.Dial("udp", netip.AddrPort{}, vip(lab.V4, 42, 55), 10*time.Second)
			must(t, err)
			defer c.Close()
			_, err = c.Write([]byte("hello"))
			must(t, err)
		}
		lab.Poll(t, 20*time.Second, func() error {
			return shows(
				l, fmt.Sprintf(`fairlead_held_datagrams_total{result="dropped"} %d`, clients),
				`fairlead_held_datagrams_total{result="passed"} 0`, "fairlead_held_datagrams 0\n",
				fmt.Sprintf(`cause="datagram",result="queue_full",service="shop/dead"} %d`, clients-8),
			)
		}, a.Log)
	})
}

// told are samples that say what became of clients.
var told = regexp.MustCompile(`^fairlead_(held|wake_total.*result="[^r]|packets_total.*[1-9]\d*\n)`)

// shows looks for samples in the agent's metrics.
func shows(l *lab.Lab, samples ...string) error {
	out, err := l.Node.Try("curl", "-sS", "--noproxy", "*", "--max-time", "5", "http://127.0.0.1:9320/metrics")
	if err != nil {
		return err
	}
	for _, want := range samples {
		if !strings.Contains(out, want) {
			var have []string
			for line := range strings.Lines(out) {
				if told.MatchString(line) {
					have = append(have, line)
				}
			}
			return fmt.Errorf("no %s in the metrics: %s", want, have)
		}
	}
	return nil
}
