// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/test/netns/lab"
)

// goesOn checks that the agent of the pid owns the host and follows its config.
func (b *busyNode) goesOn(t *testing.T, what string, pid int) {
	t.Helper()
	lab.Poll(t, 30*time.Second, func() error {
		out, err := b.a.TryCLI("status", "-o", "json")
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		var s lab.Status
		if err := decode(out, &s); err != nil {
			return err
		}
		if s.PID != pid || !s.Ready {
			return fmt.Errorf("%s: pid %d, %s; wanted pid %d", what, s.PID, s.Verdict, pid)
		}
		return nil
	}, b.a.Log)
	second := b.a.Command("run", "--config", b.a.Path("fairlead.yaml"))
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), fmt.Sprintf("pid %d,", pid)) || !strings.Contains(string(out), "--takeover") {
		t.Errorf("%s: a second agent says %v: %s", what, err, out)
	}
	if err := b.err(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// TestL08SuccessorsThatFail: whatever a successor does wrong, and wherever it
// dies, the agent that runs goes on as if nothing had happened: every connection
// is served, those that live through it too.
func TestL08SuccessorsThatFail(t *testing.T) {
	b := newBusyNode(t)
	b.begin(t)
	pid := b.a.PID()
	for _, stage := range []string{lab.StageConnected, lab.StageHello, lab.StageYours} {
		t.Run("Killed"+stage, func(t *testing.T) {
			kill := b.a.FalseSuccessor(t, stage)
			kill()
			b.goesOn(t, stage, pid)
		})
	}
	t.Run("SaysNonsense", func(t *testing.T) { // and does not end: it is killed
		b.a.FalseSuccessor(t, lab.StageGarbage)
		b.goesOn(t, "nonsense", pid)
		if out := b.a.CLI(t, "status"); !strings.Contains(out, `did not take this agent's place: it said "stop", want "ready"`) {
			t.Errorf("status:\n%s", out)
		}
	})
	t.Run("OfAnotherNamespace", func(t *testing.T) {
		b.a.FalseSuccessor(t, lab.StageNewer)
		b.goesOn(t, "refused", pid)
	})
	t.Run("InvalidConfig", func(t *testing.T) {
		must(t, os.WriteFile(b.a.Path("bad.yaml"), []byte("services: [{project: 1}]\n"), 0o600))
		out, err := b.a.Command("run", "--config", b.a.Path("bad.yaml"), "--state", b.a.Path("state"), "--takeover").CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "bad.yaml:1:") {
			t.Errorf("%v: %s", err, out)
		}
		b.goesOn(t, "invalid config", pid)
	})
	t.Run("AddressInUse", func(t *testing.T) {
		var taken net.Listener
		must(t, b.l.Node.Do(func() (err error) {
			taken, err = net.Listen("tcp", ":8088")
			return err
		}))
		defer taken.Close()
		must(t, os.WriteFile(b.a.Path("other.yaml"), []byte(strings.Replace(b.config(), `http: ":80"`, `http: ":8088"`, 1)), 0o600))
		out, err := b.a.Command("run", "--config", b.a.Path("other.yaml"), "--state", b.a.Path("state"), "--takeover").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "the place was not taken") || !strings.Contains(string(out), "listen.http :8088: the address is in use") {
			t.Errorf("%v: %s", err, out)
		}
		b.goesOn(t, "address in use", pid)
		if out := b.a.CLI(t, "status"); !strings.Contains(out, "listen.http :8088: the address is in use") {
			t.Errorf("status:\n%s", out)
		}
	})
	t.Run("OtherStateDirectory", func(t *testing.T) {
		out, err := b.a.Command("run", "--config", b.a.Path("fairlead.yaml"), "--state", b.a.Path("elsewhere"), "--takeover").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "start it with --state "+b.a.Path("state")) {
			t.Errorf("%v: %s", err, out)
		}
		b.goesOn(t, "other state directory", pid)
	})
	if err := b.end(); err != nil {
		t.Error(err)
	}
	t.Log(b.counts())
	b.a.FalseSuccessor(t, lab.StageYours) // hangs
	b.a.Stop(t)                           // all the same
}

// taken tells whether the successor under test has the place.
func (b *busyNode) taken(t *testing.T) bool {
	t.Helper()
	out, err := b.a.TryCLI("status", "-o", "json")
	var s struct {
		PID      int
		Entering bool
	}
	return err == nil && decode(out, &s) == nil && s.PID == b.a.PID() && !s.Entering
}

// TestL08SuccessorKilledAtAnyMoment: the same for a real one, which is killed at
// a moment of the handover that chance chooses. One that is killed in the moment
// after it has taken the place was the only agent: its connections are lost, and
// it shows nothing more on that node.
func TestL08SuccessorKilledAtAnyMoment(t *testing.T) {
	killed := 0
	for node := 1; killed == 0 && node <= 3; node++ {
		t.Run(fmt.Sprintf("Node%d", node), func(t *testing.T) { killed = killSuccessors(t) })
	}
	if killed == 0 {
		t.Error("none was killed in the midst of a handover")
	}
}

// killSuccessors kills up to 12 of them, fewer on a slower machine, and tells how many
// had not got the place.
func killSuccessors(t *testing.T) (killed int) {
	t.Helper()
	b := newBusyNode(t)
	b.begin(t)
	pid, took := b.a.PID(), 0
	for killed+took < max(12/lab.Slower(), 1) {
		b.a.RunTakeover(t)
		lab.Poll(t, 60*time.Second, func() error {
			if !b.logged(t, "handing over", "to") {
				return errors.New("it has not asked for the place yet")
			}
			return nil
		}, b.a.Log)
		time.Sleep(rand.N(60 * time.Millisecond)) // the moment is the test's input
		if b.logged(t, "handed over", "to") {
			took++
			pid = b.a.PID()
			b.goesOn(t, "it was faster", pid)
			continue
		}
		b.a.Signal(t, syscall.SIGKILL)
		// The agent before knows which it was, some time later.
		lab.Poll(t, 60*time.Second, func() error {
			if !b.logged(t, "handed over", "to") && !b.logged(t, "the successor did not take the place: this agent goes on", "pid") {
				return errors.New("the agent before has not said whose the place is")
			}
			return nil
		}, b.a.Log)
		if b.logged(t, "handed over", "to") {
			t.Logf("ended by chance: a successor was killed within a moment after it had taken the place, which is a crash of the only agent")
			break
		}
		killed++
		b.a.Back(t)
		b.goesOn(t, "killed", pid)
	}
	t.Logf("%d were killed, %d were faster", killed, took)
	return killed
}

// logged tells whether the log says that of the agent under test.
func (b *busyNode) logged(t *testing.T, what, key string) bool {
	t.Helper()
	log, err := os.ReadFile(b.a.Path("log"))
	must(t, err)
	return bytes.Contains(log, fmt.Appendf(nil, "msg=%q %s=%d ", what, key, b.a.PID()))
}

// TestL08AfterTheHandover: what becomes of the agent before, and of those that
// come together.
func TestL08AfterTheHandover(t *testing.T) {
	b := newBusyNode(t)
	t.Run("TheOldOneIsKilled", func(t *testing.T) {
		c := b.long(t)
		old := b.a.Takeover(t)
		must(t, echoed(c, "still", "still"))
		old.Kill(t)
		if err := echoed(c, "still", "still"); err == nil {
			t.Error("a connection outlives its process")
		}
		for range 20 {
			must(t, b.newConnection())
		}
		b.goesOn(t, "the old one is killed", b.a.PID())
		lab.Poll(t, 10*time.Second, func() error { return b.older(t) }, b.a.Log)
	})
	t.Run("TheOldOneIsKilledMeanwhile", func(t *testing.T) {
		before := b.a.PID()
		b.a.RunTakeover(t)
		lab.Poll(t, 30*time.Second, func() error {
			log, err := os.ReadFile(b.a.Path("log"))
			must(t, err)
			if !strings.Contains(string(log), fmt.Sprintf("msg=\"taking the place of the agent that runs\" pid=%d", before)) {
				return errors.New("the handover has not begun")
			}
			return nil
		}, b.a.Log)
		must(t, syscall.Kill(before, syscall.SIGKILL))
		lab.Poll(t, 30*time.Second, func() error {
			if !b.taken(t) {
				return errors.New("nobody has the place")
			}
			return nil
		}, b.a.Log)
		for range 20 {
			must(t, b.newConnection())
		}
	})
	b.load("new connections", 2, b.newConnection)
	t.Run("TwoAtOnce", func(t *testing.T) {
		before := b.a.PID()
		b.a.RunTakeover(t)
		first := b.a.PID()
		b.a.RunTakeover(t)
		second := b.a.PID()
		lab.Poll(t, 60*time.Second, func() error { // one after the other, whoever is first
			log, err := os.ReadFile(b.a.Path("log"))
			must(t, err)
			for _, pid := range []int{first, second} {
				if !strings.Contains(string(log), fmt.Sprintf("msg=\"handed over\" to=%d ", pid)) {
					return fmt.Errorf("pid %d has not had the place of %d", pid, before)
				}
			}
			return nil
		}, b.a.Log)
		if !b.taken(t) { // the first one came second
			b.a.Swap()
		}
		b.goesOn(t, "two at once", b.a.PID())
		if err := b.end(); err != nil {
			t.Error(err)
		}
	})
	t.Run("StopReachesTheOldOnes", func(t *testing.T) {
		c := b.long(t)
		first := b.a.Takeover(t)
		second := b.a.Takeover(t) // knows the first one by inheritance
		must(t, second.Wait(t, 30*time.Second))
		must(t, echoed(c, "still", "still"))
		lab.Poll(t, 10*time.Second, func() error { return b.older(t, first.PID()) }, b.a.Log)
		b.a.Stop(t)
		must(t, first.Wait(t, 10*time.Second))
		if err := echoed(c, "still", "still"); err == nil {
			t.Error("a connection outlives its process")
		}
	})
	t.Run("TheBudgetEnds", func(t *testing.T) {
		b.a.Run(t, "--drain-timeout", "2s")
		b.a.WaitReady(t, 0)
		ws := b.webSocket(t)
		old := b.a.Takeover(t)
		begun := time.Now()
		for time.Since(begun) < 1500*time.Millisecond {
			must(t, echoed(ws, string(frame("x", true)), string(frame("x", false))))
		}
		_ = ws.SetDeadline(time.Now().Add(20 * time.Second))
		rest, err := io.ReadAll(ws)
		if want := "\x88\x02\x03\xe9"; string(rest) != want || err != nil {
			t.Errorf("at the end of the budget a WebSocket gets %q, %v, wanted a close frame, %q", rest, err, want)
		}
		if took := time.Since(begun); took < 1800*time.Millisecond {
			t.Errorf("it got it after %s, of 2s", took)
		}
		must(t, old.Wait(t, 20*time.Second))
		b.a.Stop(t)
	})
}

// long is a connection by name that is to live long.
func (b *busyNode) long(t *testing.T) net.Conn {
	t.Helper()
	c, err := b.dial(6379, b.secure(ownHost))
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	must(t, echoed(c, "begin", "begin"))
	return c
}

// older checks which agents before the present one the status tells of.
func (b *busyNode) older(t *testing.T, pids ...int) error {
	t.Helper()
	var s struct{ Older []struct{ PID int } }
	b.a.JSON(t, &s, "status")
	var have []int
	for _, o := range s.Older {
		have = append(have, o.PID)
	}
	if fmt.Sprint(have) != fmt.Sprint(pids) {
		return fmt.Errorf("status tells of older agents %v, wanted %v", have, pids)
	}
	return nil
}
