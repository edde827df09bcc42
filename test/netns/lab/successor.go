// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/fairlead-lb/fairlead/pkg/handover"
)

// Stages at which a false successor stops saying anything.
const (
	StageConnected = "connected" // it has said nothing
	StageHello     = "hello"     // it has asked for the place and reads nothing
	StageYours     = "yours"     // it has all there is, the locks included
	StageGarbage   = "garbage"   // it says what is no answer
	StageNewer     = "newer"     // it is refused: another network namespace
)

// successorEnv says what the helper does: directory of the agent, stage.
const successorEnv = "FAIRLEAD_LAB_SUCCESSOR"

// FalseSuccessor starts a process that asks the agent for its place, goes as far
// as the stage, and then hangs. kill ends it as a crash would.
func (a *Agent) FalseSuccessor(t testing.TB, stage string) (kill func()) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := a.ns.Command(context.Background(), self, a.Dir, stage)
	cmd.Env = append(os.Environ(), helperEnv+"=successor", successorEnv+"="+stage, successorEnv+"_DIR="+a.Dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != stage+"\n" {
		kill()
		t.Fatalf("a false successor says %q, %v, wanted %q\n%s", line, err, stage, a.Log())
	}
	return kill
}

// falseSuccessor is the helper.
func falseSuccessor() int {
	if err := pretend(os.Getenv(successorEnv), &Agent{Dir: os.Getenv(successorEnv + "_DIR")}); err != nil {
		fmt.Fprintln(os.Stderr, "false successor:", err)
		return 1
	}
	fmt.Println(os.Getenv(successorEnv))
	time.Sleep(time.Hour)
	return 0
}

func pretend(stage string, a *Agent) error {
	c, err := handover.Dial(a.Path("run/takeover.sock"), time.Second)
	for end := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(end); { // it begins anew after the last one
		time.Sleep(20 * time.Millisecond)
		c, err = handover.Dial(a.Path("run/takeover.sock"), time.Second)
	}
	if err != nil || stage == StageConnected {
		return err
	}
	hello := handover.Message{Kind: handover.Hello, StateDir: a.Path("state"), NetNS: handover.NetNS()}
	if stage == StageNewer {
		hello.NetNS = "net:[1]"
	}
	if err := c.Send(hello, time.Second); err != nil || stage == StageHello {
		return err
	}
	for {
		m, _, err := c.Receive(10 * time.Second)
		refused := (*handover.RefusedError)(nil)
		switch {
		case stage == StageNewer && errors.As(err, &refused):
			return nil
		case err != nil:
			return err
		case m.Kind == handover.Sockets:
			continue
		case m.Kind != handover.Yours:
			return fmt.Errorf("it is told %q", m.Kind)
		case stage == StageGarbage:
			return c.Send(handover.Message{Kind: handover.Stop}, time.Second)
		}
		return nil
	}
}
