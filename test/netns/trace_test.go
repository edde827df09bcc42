// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// traced is one line of `fairlead trace -o json`.
type traced struct {
	Interface string         `json:"interface"`
	Hook      string         `json:"hook"`
	Verdict   string         `json:"verdict"`
	Reason    string         `json:"reason"`
	Service   string         `json:"service"`
	Src       netip.AddrPort `json:"src"`
	Dst       netip.AddrPort `json:"dst"`
	Flags     string         `json:"flags"`
	Became    struct {
		Src netip.AddrPort `json:"src"`
		Dst netip.AddrPort `json:"dst"`
	} `json:"became"`
	Summary *struct {
		Packets int            `json:"packets"`
		Lost    int            `json:"lost"`
		Reasons map[string]int `json:"reasons"`
	} `json:"summary"`
}

// watcher is a running `fairlead trace`.
type watcher struct {
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	stderr bytes.Buffer
}

// watch starts a trace and returns when it is on.
func watch(t *testing.T, a *lab.Agent, args ...string) *watcher {
	t.Helper()
	w := &watcher{cmd: a.Command("trace", append([]string{"-o", "json", "--timeout", "60s"}, args...)...)}
	stdout, err := w.cmd.StdoutPipe()
	must(t, err)
	stderr, err := w.cmd.StderrPipe()
	must(t, err)
	must(t, w.cmd.Start())
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
	})
	w.lines = bufio.NewScanner(stdout)
	first, err := bufio.NewReader(io.TeeReader(stderr, &w.stderr)).ReadString('\n')
	if err != nil || !strings.HasPrefix(first, "tracing ") {
		t.Fatalf("trace began with %q, %v", first, err)
	}
	return w
}

// until reads events up to the first that is as wanted.
func (w *watcher) until(t *testing.T, what string, wanted func(traced) bool) traced {
	t.Helper()
	var seen []string
	for w.lines.Scan() {
		var e traced
		if err := json.Unmarshal(w.lines.Bytes(), &e); err != nil {
			t.Fatalf("trace: %v: %s", err, w.lines.Bytes())
		}
		if wanted(e) {
			return e
		}
		seen = append(seen, w.lines.Text())
	}
	t.Fatalf("the trace ended without %s; %d events:\n%s\n%s", what, len(seen), strings.Join(seen, "\n"), w.stderr.String())
	return traced{}
}

// TestTraceShowsLivePackets: both directions of a connection, what they became,
// and why another is refused; then the summary.
func TestTraceShowsLivePackets(t *testing.T) {
	lab.Some(t, []string{"tcx", "xdp-native"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Start(t, lab.Config{Services: []lab.Service{stream(l, 13, l.Replicas[0]), stream(l, 14, l.Replicas[1])}})
		hook := "tc"
		if l.Mode.XDP() {
			hook = "xdp"
		}
		families(t, func(t *testing.T, f lab.Family) {
			to, back := vip(f, 13, 70), netip.AddrPortFrom(l.Replicas[0].Addr(f), lab.TCPPort)
			from := netip.AddrPortFrom(lab.ClientAddr(f), 30013)
			w := watch(t, a, "--client", from.Addr().String(), "--service", "shop/stream13")
			other, err := l.Client.Open(netip.AddrPort{}, vip(f, 14, 70))
			must(t, err)
			must(t, other.Close())
			c, err := l.Client.Open(from, to)
			must(t, err)
			defer c.Close()
			e := w.until(t, "a SYN that is forwarded", func(e traced) bool { return e.Reason == "forwarded" })
			if e.Src != from || e.Dst != to || e.Became.Src != from || e.Became.Dst != back || e.Flags != "SYN" ||
				e.Service != "shop/stream13" || e.Interface != "up0" {
				t.Errorf("the client's SYN is told as %+v", e)
			}
			e = w.until(t, "a reply", func(e traced) bool { return e.Reason == "replied" })
			if e.Src != back || e.Dst != from || e.Became.Src != to || e.Became.Dst != from || e.Flags != "SYN ACK" ||
				e.Service != "shop/stream13" || e.Interface != "rep1" || e.Hook != "tc" {
				t.Errorf("the replica's SYN ACK is told as %+v", e)
			}
			closed := vip(f, 13, 71)
			if _, err := l.Client.Open(netip.AddrPort{}, closed); err == nil {
				t.Error("a port nobody serves was opened")
			}
			e = w.until(t, "a refused port", func(e traced) bool { return e.Reason == "port_refused" })
			if e.Dst != closed || e.Verdict != "answer" || e.Hook != hook || e.Service != "shop/stream13" {
				t.Errorf("the refused SYN is told as %+v", e)
			}
			must(t, w.cmd.Process.Signal(syscall.SIGINT))
			sum := w.until(t, "a summary", func(e traced) bool { return e.Summary != nil }).Summary
			if sum.Reasons["port_refused"] != 1 || sum.Reasons["forwarded"] < 2 || sum.Lost != 0 {
				t.Errorf("summary %+v", sum)
			}
			if err := w.cmd.Wait(); err != nil {
				t.Errorf("after Ctrl-C: %v", err)
			}
		})
	})
}

// TestTraceEndsWithWhoeverReads: a trace whose reader was killed makes place
// for the next one, and ends with the agent.
func TestTraceEndsWithWhoeverReads(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Start(t, lab.Config{Services: []lab.Service{stream(l, 13)}})
		w := watch(t, a)
		if _, err := a.TryCLI("trace", "--timeout", "1s"); err == nil || !strings.Contains(err.Error(), "somebody traces already") {
			t.Errorf("a second trace: %v", err)
		}
		must(t, w.cmd.Process.Kill())
		lab.Poll(t, 10*time.Second, func() error {
			out, err := a.TryCLI("trace", "--timeout", "100ms")
			if err == nil && !strings.HasPrefix(out, "no packets seen") {
				err = fmt.Errorf("it printed %q", out)
			}
			return err
		})
		w = watch(t, a)
		a.Stop(t)
		for w.lines.Scan() {
			t.Logf("%s", w.lines.Text())
		}
		if err := w.cmd.Wait(); err == nil {
			t.Error("the trace ended well though the agent stopped")
		}
	})
}

// TestTopMeasures: one look at the rates while connections are busy.
func TestTopMeasures(t *testing.T) {
	lab.Some(t, []string{"tcx"}, func(t *testing.T, l *lab.Lab) {
		l.Serve(t)
		a := l.Start(t, lab.Config{Services: []lab.Service{stream(l, 13), stream(l, 14)}})
		load := l.Client.NewLoad(t, 10, 20*time.Millisecond, vip(lab.V4, 13, 70))
		defer load.Stop()
		var got struct {
			Seconds  float64 `json:"seconds"`
			Services []struct {
				Service string  `json:"service"`
				Packets float64 `json:"packetsPerSecond"`
				BitsIn  float64 `json:"bitsInPerSecond"`
				BitsOut float64 `json:"bitsOutPerSecond"`
				Ready   int     `json:"ready"`
			} `json:"services"`
			Refused []struct {
				Reason  string  `json:"reason"`
				Packets float64 `json:"packetsPerSecond"`
			} `json:"refused"`
		}
		a.JSON(t, &got, "top", "--interval", "1s")
		if len(got.Services) != 2 || got.Seconds < 1 {
			t.Fatalf("top: %+v", got)
		}
		busy, idle := got.Services[0], got.Services[1]
		if busy.Service != "shop/stream13" || busy.Packets < 100 || busy.BitsIn < 1000 || busy.BitsOut < 1000 || busy.Ready != 3 {
			t.Errorf("the busy service: %+v", busy)
		}
		if idle.Service != "shop/stream14" || idle.Packets != 0 {
			t.Errorf("the idle service: %+v", idle)
		}
	})
}
