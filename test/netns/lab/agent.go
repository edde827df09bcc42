// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Agent is a fairlead under test with directories and a cgroup of its own.
// One agent after the other may run in them.
type Agent struct {
	Dir    string // holds fairlead.yaml, state/, run/ and the log
	Cgroup string // of the host's clients; node.cgroup

	mode Mode
	ns   *Netns
	env  []string
	prog string // of Run; empty: Binary
	proc *process
	old  []*process // whose place the present one took
}

// process is a started command with its end.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed after Wait
	err  error
}

// NewAgent prepares an agent in a namespace without starting it. When the test
// ends it is killed, its data plane is removed and so are its directories.
func NewAgent(t testing.TB, ns *Netns, m Mode) *Agent {
	t.Helper()
	n := serial()
	a := &Agent{
		Dir: filepath.Join(baseDir(Prefix()), fmt.Sprintf("agent-%d", n)), mode: m, ns: ns,
		Cgroup: filepath.Join(CgroupRoot(), fmt.Sprintf("%s-%d", Prefix(), n)),
	}
	if CgroupRoot() == "" {
		t.Fatal("no cgroup2 is mounted: connect-time balancing cannot be tested; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")
	}
	must(t, os.MkdirAll(a.Dir, 0o755))
	must(t, os.Mkdir(a.Cgroup, 0o755))
	must(t, os.Symlink(ns.path, filepath.Join(a.Dir, "netns")))
	must(t, os.Symlink(Binary(), filepath.Join(a.Dir, "binary")))
	t.Cleanup(func() { a.remove(t) })
	return a
}

// Start writes the config, starts an agent and waits until all of it is in
// force.
func (l *Lab) Start(t testing.TB, c Config) *Agent {
	t.Helper()
	a := NewAgent(t, l.Node, l.Mode)
	a.Write(t, c)
	a.Run(t)
	a.WaitReady(t, 0)
	return a
}

// Path is a file of the agent's directory.
func (a *Agent) Path(name string) string { return filepath.Join(a.Dir, name) }

// Write replaces the config file.
func (a *Agent) Write(t testing.TB, c Config) {
	t.Helper()
	cgroup := a.Cgroup
	if c.NoCgroup {
		cgroup = ""
	}
	a.WriteText(t, c.yaml(a.mode, cgroup))
}

// WriteText replaces the config file, whole.
func (a *Agent) WriteText(t testing.TB, text string) {
	t.Helper()
	must(t, os.WriteFile(a.Path("new.yaml"), []byte(text), 0o644))
	must(t, os.Rename(a.Path("new.yaml"), a.Path("fairlead.yaml")))
}

// Run starts an agent and returns at once.
func (a *Agent) Run(t testing.TB, more ...string) {
	t.Helper()
	log, err := os.OpenFile(a.Path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(t, err)
	defer log.Close()
	out, err := os.OpenFile(a.Path("out"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(t, err)
	defer out.Close()
	cmd := a.ns.Command(context.Background(), cmp.Or(a.prog, Binary()), a.args("run", append(more, "--config", a.Path("fairlead.yaml"))...)...)
	cmd.Env = append(os.Environ(), a.env...)
	cmd.Stdout, cmd.Stderr = out, log
	must(t, cmd.Start())
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	a.proc = p
}

// Takeover starts another agent in the place of the one that runs, which it
// returns, and waits until the place is taken.
func (a *Agent) Takeover(t testing.TB) (old *Old) {
	t.Helper()
	before := a.proc
	a.RunTakeover(t)
	Poll(t, 60*time.Second, func() error {
		select {
		case <-a.proc.done:
			t.Fatalf("the successor ended: %v\n%s", a.proc.err, a.Log())
		default:
		}
		out, err := a.TryCLI("status", "-o", "json")
		if err != nil {
			return err // the socket changes hands
		}
		var s Status
		if err := json.Unmarshal([]byte(out), &s); err != nil {
			return err
		}
		if s.PID != a.PID() || !s.Ready {
			return fmt.Errorf("pid %d is there, wanted %d: %s", s.PID, a.PID(), s.Verdict)
		}
		return nil
	}, a.Log)
	return &Old{a, before}
}

// RunTakeover starts an agent that is to take the place of the one that runs,
// and returns at once. The latter is still among those that end with the test.
func (a *Agent) RunTakeover(t testing.TB, more ...string) {
	t.Helper()
	if a.proc != nil {
		a.old = append(a.old, a.proc)
	}
	a.Run(t, append(more, "--takeover")...)
}

// Back makes the agent that ran before the last RunTakeover the present one: the
// successor did not take the place.
func (a *Agent) Back(t testing.TB) {
	t.Helper()
	if err := a.Wait(t, 60*time.Second); err == nil {
		t.Error("a successor that did not take the place ended well")
	}
	a.proc = a.old[len(a.old)-1]
	a.old = a.old[:len(a.old)-1]
}

// Swap makes the agent before the present one the present one: of two that came
// at one time, the other one was the last.
func (a *Agent) Swap() { a.proc, a.old[len(a.old)-1] = a.old[len(a.old)-1], a.proc }

// Program is what agents started from now on run.
func (a *Agent) Program(path string) { a.prog = path }

// Old is an agent whose place another one has taken.
type Old struct {
	a *Agent
	p *process
}

// PID of the process.
func (o *Old) PID() int { return o.p.cmd.Process.Pid }

// Kill ends it as a crash would.
func (o *Old) Kill(t testing.TB) {
	t.Helper()
	must(t, o.p.cmd.Process.Kill())
	<-o.p.done
}

// Signal sends it a signal.
func (o *Old) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	must(t, o.p.cmd.Process.Signal(s))
}

// Lives tells whether it still runs.
func (o *Old) Lives() bool {
	select {
	case <-o.p.done:
		return false
	default:
		return true
	}
}

// Wait waits for its end and returns how it ended.
func (o *Old) Wait(t testing.TB, timeout time.Duration) error {
	t.Helper()
	select {
	case <-o.p.done:
		return o.p.err
	case <-time.After(timeout):
		t.Fatalf("the agent before, pid %d, still runs %v later\n%s", o.PID(), timeout, o.a.Log())
		return nil
	}
}

// Setenv adds NAME=VALUE to the environment of agents started from now on.
func (a *Agent) Setenv(pair string) { a.env = append(a.env, pair) }

func (a *Agent) args(verb string, more ...string) []string {
	args := []string{verb}
	if verb != "check" {
		args = append(args, "--run", a.Path("run"))
	}
	if verb == "run" {
		args = append(args, "--state", a.Path("state"))
	}
	return append(args, more...)
}

// PID of the running agent.
func (a *Agent) PID() int { return a.proc.cmd.Process.Pid }

// Command is a fairlead command that speaks to this agent.
func (a *Agent) Command(verb string, more ...string) *exec.Cmd {
	return a.ns.Command(context.Background(), Binary(), a.args(verb, more...)...)
}

// CLI runs a fairlead command to its end and returns stdout.
func (a *Agent) CLI(t testing.TB, verb string, more ...string) string {
	t.Helper()
	out, err := a.TryCLI(verb, more...)
	if err != nil {
		t.Fatalf("fairlead %s %s: %v\n%s", verb, strings.Join(more, " "), err, a.Log())
	}
	return out
}

// TryCLI is CLI for commands that may fail; the error has stderr in it.
func (a *Agent) TryCLI(verb string, more ...string) (string, error) {
	out, err := a.Command(verb, more...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

// JSON runs a fairlead command with -o json and decodes its answer.
func (a *Agent) JSON(t testing.TB, v any, verb string, more ...string) {
	t.Helper()
	out := a.CLI(t, verb, append([]string{"-o", "json"}, more...)...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("fairlead %s -o json: %v\n%s", verb, err, out)
	}
}

// Signal sends the agent a signal.
func (a *Agent) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	must(t, a.proc.cmd.Process.Signal(s))
}

// Wait waits for the agent to end and returns how it did.
func (a *Agent) Wait(t testing.TB, timeout time.Duration) error {
	t.Helper()
	select {
	case <-a.proc.done:
		return a.proc.err
	case <-time.After(Patience(timeout)):
		t.Fatalf("the agent still runs %v later\n%s", timeout, a.Log())
		return nil
	}
}

// Kill ends the agent as a crash would.
func (a *Agent) Kill(t testing.TB) {
	t.Helper()
	a.Signal(t, syscall.SIGKILL)
	_ = a.Wait(t, 10*time.Second)
}

// Stop ends the agent as an init system would.
func (a *Agent) Stop(t testing.TB) {
	t.Helper()
	a.Signal(t, syscall.SIGTERM)
	if err := a.Wait(t, 30*time.Second); err != nil {
		t.Errorf("the agent ended on SIGTERM with: %v\n%s", err, a.Log())
	}
}

// Reload applies a new config and waits until it is in force.
func (a *Agent) Reload(t testing.TB, c Config) {
	t.Helper()
	before := a.Status(t).Config.Generation
	a.Write(t, c)
	a.Signal(t, syscall.SIGHUP)
	a.WaitReady(t, before)
}

// Log is the end of what the agents wrote to stderr.
func (a *Agent) Log() string {
	b, _ := os.ReadFile(a.Path("log"))
	if most := 6000; len(b) > most {
		b = append([]byte("…"), b[len(b)-most:]...)
	}
	return fmt.Sprintf("--- log of the agent\n%s---", b)
}

// Out is what the agents wrote to stdout.
func (a *Agent) Out() string {
	b, _ := os.ReadFile(a.Path("out"))
	return string(b)
}

func (a *Agent) remove(t testing.TB) {
	if t.Failed() {
		t.Log(a.Log())
	}
	for _, p := range append(a.old, a.proc) {
		if p != nil {
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
	detachDir(a.Dir)
	killAll(cgroupPIDs(a.Cgroup))
	removeCgroup(a.Cgroup)
	unmountBelow(a.Dir)
	if err := os.RemoveAll(a.Dir); err != nil {
		t.Errorf("remove the agent's directory: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
